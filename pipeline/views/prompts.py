"""The text a model reads: instruction, documents, question, answer.

Documents carry no running number, so that a document's tokens are the same wherever it stands. The layout (documents
first, question last) lets several questions share one context; the wording is our default, the paper's own is not
known.
"""

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PLAIN_TURN = "\nAnswer: "
"""Text between question and answer, unless it is the base's chat template (model/chat_template.py)."""


def instruction_segment(instruction: str) -> str:
    """The beginning of the prompt."""
    return f"{instruction}\n"


def chunk_segment(title: str, text: str, *, opens_document: bool, closes_document: bool) -> str:
    """A chunk as it stands in the prompt; a document's header belongs to its first chunk, its line end to the last."""
    header = "Document: " if not title else f"Document (Title: {title}): "
    return (header if opens_document else "") + text + ("\n" if closes_document else "")


def question_segment(question: str, options: Sequence[str] = ()) -> str:
    """The question, options under their letters; without white space at its end, which many chat templates remove."""
    lines = (f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return "\n".join([f"Question: {question}", *lines]).rstrip()


def target(answers: Sequence[str], gold_option: int) -> str:
    """Return the answer that is trained on: the letter of the right option, else the first reference."""
    return LETTERS[gold_option] if gold_option >= 0 else answers[0]
