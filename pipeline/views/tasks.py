"""What each benchmark asks of the model: the instruction, the measure it is judged by, the form of an answer.

Instructions are our default [D], the paper's are not known; they are the same for every method and every input.
"""

from typing import Literal, NamedTuple

Measure = Literal["exact_match", "accuracy", "qasper_f1", "longbench_f1", "rouge_l"]
"""Of one answer, from 0 to 1; accuracy is that of the likeliest option."""


class Task(NamedTuple):
    """One benchmark, as a model meets it."""

    instruction: str
    measure: Measure
    max_new_tokens: int
    """Of one answer, unless eval.max_new_tokens says otherwise."""
    many_lines: bool = False
    """The answer is all that is generated; else its first line."""


_ANSWER = "Answer the question from the documents."
_DEFAULT = Task(_ANSWER, "exact_match", 16)
_TASKS = {
    "nq": Task(_ANSWER, "exact_match", 32),
    "hotpot": Task(_ANSWER, "exact_match", 32),
    "longbench": Task(_ANSWER, "longbench_f1", 64),
    "quality": Task("Read the story and choose the right option. Answer with its letter.", "accuracy", 8),
    "qasper": Task(
        "Answer the question from the paper. Answer yes or no where that is asked, and unanswerable if the paper does "
        "not say.",
        "qasper_f1",
        128,
    ),
    "squality": Task("Read the story and answer the question with a summary of what it tells.", "rouge_l", 512, True),
}


def of(benchmark: str) -> Task:
    """The task of a benchmark; those without one of their own (bios, jsonl) are short answers, matched exactly."""
    return _TASKS.get(benchmark, _DEFAULT)
