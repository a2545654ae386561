"""The score of one answer in lm-evaluation-harness: that of stage evaluate, by the same functions."""

from typing import Any

from pipeline.evaluation import score
from pipeline.views import tasks


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score the generated text; `doc` is a line of `make export`. The likelihood of options is not asked for."""
    answer = score.answer_text(results[0], tasks.of(doc["benchmark"]), doc["answers"])
    return {"exact_match": score.score(answer, doc, {}, [0.0] * len(doc["options"]))["exact_match"]}
