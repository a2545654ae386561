"""Schemas of the tables of predictions, and of those that the ablation grid keeps of its runs."""

from pathlib import Path

import pyarrow as pa

from pipeline.common.tables import TEXT, TEXTS, Table

PREDICTIONS = Table(
    "predictions",
    2,
    "evaluate",
    Path("reports/predictions"),  # the folder of `predictions_of`; those of stage surface: SURFACE
    (
        ("example_id", TEXT),
        ("question_id", TEXT),
        ("benchmark", TEXT),
        ("method", TEXT),  # pipeline/runtime/methods.py
        ("input", TEXT),  # full: the whole context | retrieval: the top chunks only | longbench: its top 7
        ("num_documents", pa.int32()),
        ("gold_position", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("prediction", TEXT),
        ("answers", TEXTS),
        ("answer_types", TEXTS),
        ("subset", TEXT),
        ("options", TEXTS),
        ("gold_option", pa.int32()),  # of a multiple-choice question, from 0; else -1, as the next two
        ("generated_option", pa.int32()),  # the option that the prediction names; -1 also: none or several
        ("likeliest_option", pa.int32()),
        ("option_log_probs", pa.large_list(pa.float64())),  # nats, of each option's letter behind the prompt
        ("score", pa.float64()),  # by the benchmark's own measure (pipeline/views/tasks.py)
        ("exact_match", pa.float64()),  # of a multiple-choice question: the generated option is the right one
        ("token_f1", pa.float64()),
        ("best_subspan_em", pa.float64()),
        ("error", TEXT),  # correct | distraction | other
        ("distractor_id", TEXT),  # of a distraction error: the first document that holds the wrong answer; else empty
    ),
)

SURFACE = Path("reports/surface")
"""The folder of what stage surface writes."""

_FOR_STATISTICS = (
    "example_id", "question_id", "benchmark", "method", "input", "num_documents", "gold_position", "subset",
    "score", "exact_match", "error",
)  # fmt: skip
ABLATION_RUN = Table(
    "ablation run",
    2,
    "ablations",
    Path("reports/runs"),  # a folder with one file per run
    tuple(column for column in PREDICTIONS.columns if column[0] in _FOR_STATISTICS),
)
ABLATIONS = Table(  # one line per row of the grid, seed and example
    "ablations",
    2,
    "ablations",
    Path("reports/ablations.parquet"),
    (("row", TEXT), ("seed", pa.int64()), *ABLATION_RUN.columns),
)


def predictions_of(method: str, stage: str = "evaluate") -> Table:
    """The predictions of one method, which lie in a file of their own, by stage evaluate or surface."""
    return PREDICTIONS.at((SURFACE if stage == "surface" else PREDICTIONS.path) / f"{method}.parquet")
