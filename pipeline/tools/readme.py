"""`make readme-results`: write the results in README.md, from reports/summary.json and reports/ablations.json alone.

The results stand between two marks. `--check` writes nothing and fails with one line where the README has others.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.common import files
from pipeline.report import ablation_table, text
from pipeline.report.ablation_table import AblationTable
from pipeline.report.summary import Measured, Range, Summary
from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.main import run
from pipeline.tools import arguments

README, SUMMARY = Path("README.md"), Path("reports/summary.json")
BEGIN = "<!-- results: `make readme-results` writes what stands until the end mark -->"
END = "<!-- results end -->"


def main() -> None:
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the README has other results")
    check = parser.parse_args(sys.argv[1:]).check
    record = files.read_json(SUMMARY, "report")
    ablations = ablation_table.read()
    try:
        results = section(record, ablations)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        first = " ".join(" ".join(str(error).splitlines()[:3]).split())  # of pydantic's many lines
        raise ArtifactError(
            f"{SUMMARY}: not a summary of this version ({type(error).__name__}: {first}); run `dvc repro -f report`"
        ) from None
    found = README.read_text(encoding="utf-8")
    if found.count(BEGIN) != 1 or found.count(END) != 1 or found.index(BEGIN) > found.index(END):
        raise ArtifactError(
            f"{README}: the results stand between `{BEGIN}` and `{END}`, each once and in this order; "
            "put the two marks back"
        )
    wanted = found.partition(BEGIN)[0] + results + found.partition(END)[2]
    if check and wanted != found:
        raise ArtifactError(f"{README}: its results are not those of {SUMMARY}; run `make readme-results`")
    if wanted != found:
        files.write_text(README, wanted)
    print(f"readme-results: {README} {'already has' if wanted == found else 'now has'} the results of {SUMMARY}")


def section(record: Mapping[str, Any], ablations: AblationTable) -> str:
    """Write the claims and the main table, both marks included, from the content of summary.json and ablations.json.

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
    if ablations.rows:
        claim = text.markdown(" ".join(ablation_table.claims(ablations)))
        parts.append(f"Over several seeds (`make ablations`, [the table](reports/ablations.md)): {claim}\n")
    sources = {source["file"]: source["values"] for source in record["sources"]}
    if sentences := text.analysis_sentences(sources.get("analysis", {})):
        parts.append("Inside the models of this table (stage analyze):\n")
        parts += [f"- {text.markdown(sentence)}" for sentence in sentences] + [""]
    return f"{BEGIN}\n" + "\n".join(parts) + END


def _range(label: str) -> Range:
    low, _, high = label.partition("\N{EN DASH}")
    return Range(int(low), int(high or low))


if __name__ == "__main__":
    run(main)
