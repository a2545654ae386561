"""What kind of answer each prediction is: finer than the `error` that evaluate wrote, and from the same texts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pipeline.evaluation import bootstrap, metrics

Kind = Literal["correct", "distraction", "in_gold", "in_context", "hallucinated", "no_answer", "wrong_option"]
KINDS: tuple[Kind, ...] = (
    "correct",
    "distraction",
    "in_gold",
    "in_context",
    "hallucinated",
    "no_answer",
    "wrong_option",
)

Row = Mapping[str, Any]


def kind(prediction: Row, context_texts: Iterable[str]) -> Kind:
    """Of one row of the predictions table, with the text of each document of the context it was asked over.

    correct       as evaluate says
    distraction   the wrong answer stands in a distractor, as evaluate says
    in_gold       it stands in no distractor, but in the context: in a gold document, so the wrong attribute of the
                  right one (where the gold document is unknown, no document is a distractor: in any of them)
    hallucinated  it stands nowhere in the context
    no_answer     it has no words
    wrong_option  of a multiple-choice question, where only the option counts
    """
    if prediction["error"] == "correct":
        return "correct"
    if prediction["error"] == "distraction":
        return "distraction"
    if prediction["options"]:
        return "wrong_option"
    if not metrics.normalize(prediction["prediction"]):
        return "no_answer"
    found = any(metrics.stands_in(text, prediction["prediction"]) for text in context_texts)
    if not found:
        return "hallucinated"
    return "in_gold" if prediction["gold_position"] >= 0 else "in_context"


def shares(kinds: Sequence[Kind], question_ids: Sequence[str], resamples: int) -> dict[str, Any]:
    """The share of each kind among all answers, with 95 % intervals over questions; the shares add up to 1."""
    return {
        "num_examples": len(kinds),
        **{
            name: bootstrap.interval(
                [float(found == name) for found in kinds], question_ids, resamples=resamples, seed=0
            )._asdict()
            for name in KINDS
        },
    }
