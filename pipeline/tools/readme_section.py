"""The README's results, from the figures that are in git: claims and the main table, between two comments."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.bootstrap import Interval, PairedDifference
from pipeline.report import ablation_table, text
from pipeline.report.ablation_table import AblationTable
from pipeline.report.summary import Measured, Range, Summary

BEGIN = "<!-- results: `make readme-results` writes what stands until the end mark -->"
END = "<!-- results end -->"


def section(record: Mapping[str, Any], ablations: AblationTable) -> str:
    """What stands between the marks, of summary.json and ablations.json.

    Raises:
        KeyError, TypeError, ValueError: it is no summary, or of another version.
    """
    by_length = [_measured(row) for row in record["by_num_documents"]]
    found = Summary(
        benchmarks=record["benchmarks"],
        measure=record["measure"],
        num_examples=record["num_examples"],
        num_questions=0,  # neither this nor what follows is in the text
        lengths=[_range(group) for group in dict.fromkeys(row.group for row in by_length)],
        longest=[_measured(row) for row in record["longest"]],
        by_length=by_length,
        by_position=[],
        official={},
    )
    parts = [f"{text.markdown(text.headline(found))}\n", text.table(found)]
    if ablations.rows:
        claim = text.markdown(" ".join(ablation_table.claims(ablations)))
        parts.append(f"Over several seeds (`make ablations`, [the table](reports/ablations.md)): {claim}\n")
    sources = {source["file"]: source["values"] for source in record["sources"]}
    if said := text.analysis_sentences(sources.get("analysis", {})):
        parts.append("Inside the models of this table (stage analyze):\n")
        parts += [f"- {text.markdown(sentence)}" for sentence in said] + [""]
    return f"{BEGIN}\n" + "\n".join(parts) + END


def replaced(text: str, section: str) -> str | None:
    """The text with `section` in the place of its marks and all between them; None: it has not each mark once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        return None
    before, _, rest = text.partition(BEGIN)
    return before + section + rest.partition(END)[2]


def _measured(row: Mapping[str, Any]) -> Measured:
    to_vanilla = row["to_vanilla"]
    return Measured(
        **{
            **row,
            "score": Interval(**row["score"]),
            "to_vanilla": None if to_vanilla is None else PairedDifference(**to_vanilla),
        }
    )


def _range(label: str) -> Range:
    low, _, high = label.partition("\N{EN DASH}")
    return Range(int(low), int(high or low))
