"""`make readme-results`: write the results in README.md and docs/, and the tables of docs/settings.md.

Results are those of reports/summary.json and reports/ablations.json alone; settings are those of runtime/settings.py,
params.yaml and conf/. Each page keeps what stands outside of its two marks. `--check` writes nothing and fails with one
line where a page has something else.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.common import files
from pipeline.report import ablation_table, charts, svg, text
from pipeline.report.ablation_table import AblationTable
from pipeline.report.summary import Measured, Range, Summary
from pipeline.runtime.errors import ArtifactError, counted
from pipeline.runtime.main import run
from pipeline.tools import arguments, settings_page

SUMMARY = Path("reports/summary.json")
README, RESULTS, SETTINGS = Path("README.md"), Path("docs/results.md"), Path("docs/settings.md")
PICTURE = Path("docs/results.svg")
BEGIN = "<!-- `make readme-results` writes what stands until the end mark -->"
END = "<!-- end mark -->"


def main() -> None:
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page has something else")
    check = parser.parse_args(sys.argv[1:]).check
    record = files.read_json(SUMMARY, "report")
    ablations = ablation_table.read()
    try:
        results = section(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        first = " ".join(" ".join(str(error).splitlines()[:3]).split())  # of pydantic's many lines
        raise ArtifactError(
            f"{SUMMARY}: not a summary of this version ({type(error).__name__}: {first}); run `dvc repro -f report`"
        ) from None
    written = {README: short(ablations), RESULTS: results, SETTINGS: settings_page.tables()}
    wanted = {path: _between_marks(path, content) for path, content in written.items()}
    if ablations.rows:
        wanted[PICTURE] = svg.standalone(charts.main_result(ablations))
    stale = [path for path, content in wanted.items() if _read(path) != _comparable(content)]
    if check and stale:
        raise ArtifactError(f"{', '.join(map(str, stale))}: out of date; run `make readme-results`")
    for path in stale:
        files.write_text(path, wanted[path])
    changed = f"wrote {', '.join(map(str, stale))}; commit them" if stale else "every page is up to date"
    print(f"readme-results: {changed}")


def _between_marks(path: Path, content: str) -> str:
    """Return the page with this content between its marks. Raises ArtifactError where the marks are not in order."""
    found = path.read_text(encoding="utf-8") if path.is_file() else ""
    if found.count(BEGIN) != 1 or found.count(END) != 1 or found.index(BEGIN) > found.index(END):
        raise ArtifactError(
            f"{path}: `make readme-results` writes between `{BEGIN}` and `{END}`, which must stand there once each and "
            f"in this order; put the two marks back, or run `git checkout {path}`"
        )
    return f"{found.partition(BEGIN)[0]}{BEGIN}\n{content}{END}{found.partition(END)[2]}"


def _read(path: Path) -> str:
    return _comparable(path.read_text(encoding="utf-8")) if path.is_file() else ""


def _comparable(content: str) -> str:
    """Leave out the places of a drawing's marks, which depend on the fonts of the machine; its text has the numbers."""
    return "\n".join(re.findall(r"<text[^>]*>([^<]*)", content)) if content.startswith("<svg") else content


def short(ablations: AblationTable) -> str:
    """Write the main result for the README: its claims, the picture, and a table of few columns."""
    if not ablations.rows:
        return ablation_table.markdown(ablations)
    measure, figure = ablations.shown_as, charts.main_result(ablations)
    distracted = slice(6, 7) if ablations.shows_distraction else slice(0)  # of ablation_table.cells
    heads = ablation_table.headings(ablations)
    rows = [["Method", *heads[:2], *heads[distracted], "Difference", heads[3], "from", heads[-1]]]
    for row in ablation_table.main_rows(ablations):
        name = f"{row.label}{' + retrieval' if row.input == 'retrieval' else ''}"
        cells = ablation_table.cells(row, ablations)
        reference = text.NONE if row.to_reference is None else ablations.label_of(row.reference)
        shown = [*cells[:2], *cells[distracted], *cells[2:4], text.markdown(reference), cells[-1]]
        rows.append([text.markdown(name), *shown])
    meaning = f" {text.MEANINGS['distraction_rate']}" if ablations.shows_distraction else ""
    lines = [
        *(f"- {text.markdown(claim)}" for claim in ablation_table.claims(ablations)),
        "",
        f'<img src="{PICTURE}" width="560" alt="{figure.title}: the scores of the table below">',
        "",
        *text.markdown_table(rows),
        "",
        f"{measure.heading}: {measure.phrase}.{meaning} Shares are in percent, differences "
        f"in points. Every seed answers {counted(ablations.num_questions, 'question')} over "
        f"{ablations.documents}. Retrieval: the model reads only the best-scored chunks. A hollow point in the picture "
        "has no significant difference from the row that it is compared with.",
        "",
    ]
    return "\n".join(lines)


def section(record: Mapping[str, Any]) -> str:
    """Write the headline, the main table and what analyze found, from the content of summary.json.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the record is no summary, or one of another version.
    """
    rows = TypeAdapter(list[Measured])
    by_length = rows.validate_python(record["by_num_documents"])
    found = Summary(
        benchmarks=record["benchmarks"],
        measure=record["measure"],
        num_examples=record["num_examples"],
        num_questions=0,  # the text has neither this nor the fields below that are empty
        lengths=[_range(group) for group in dict.fromkeys(row.group for row in by_length)],
        longest=rows.validate_python(record["longest"]),
        by_length=by_length,
        by_position=[],
        official={},
    )
    parts = [f"{text.markdown(text.headline(found))}\n", text.table(found)]
    sources = {source["file"]: source["values"] for source in record["sources"]}
    if sentences := text.analysis_sentences(sources.get("analysis", {})):
        parts.append("## Inside the models of this table\n")
        parts += [f"- {text.markdown(sentence)}" for sentence in sentences] + [""]
    return "\n".join(parts)


def _range(label: str) -> Range:
    low, _, high = label.partition("\N{EN DASH}")
    return Range(int(low), int(high or low))


if __name__ == "__main__":
    run(main)
