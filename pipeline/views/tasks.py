"""The table of benchmarks: what each asks of the model, and how its answers are measured.

The paper does not print its instructions; ours are a default, equal for all methods and inputs.
"""

from typing import NamedTuple


class Task(NamedTuple):
    """Instruction, measure and longest answer of one benchmark."""

    instruction: str
    measure: str
    """A key of pipeline/evaluation/score.py: MEASURES."""
    max_new_tokens: int
    """Longest answer, unless eval.max_new_tokens overrides it."""
    many_lines: bool = False
    """True: all generated text is the answer; false: its first line, or as many as a reference has."""


_ANSWER = "Answer the question from the documents."
_DEFAULT = Task(_ANSWER, "exact_match", 16)
TASKS = {
    "nq": Task(_ANSWER, "exact_match", 32),
    "nq-oracle": Task(_ANSWER, "exact_match", 24),
    "squad": Task("Answer the question from the documents, or unanswerable if they do not say.", "exact_match", 32),
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
    """The task of a benchmark; bios, jsonl and unknown benchmarks have the default: short answers, exact match."""
    return TASKS.get(benchmark, _DEFAULT)
