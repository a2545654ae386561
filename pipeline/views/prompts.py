"""The text a model reads: instruction, documents, question, answer; cut into segments that are tokenized apart.

Segments keep a chunk's tokens the same wherever it stands: in another context, behind masked chunks, or alone with
retrieval at inference. For the same reason documents carry no running number. The layout (documents first, question
last) lets several questions share one context; the wording is our default, the paper's own is not known.
"""

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def instruction_segment(instruction: str) -> str:
    """The beginning of the prompt."""
    return f"{instruction}\n"


def chunk_segment(title: str, text: str, *, opens_document: bool, closes_document: bool) -> str:
    """A chunk as it stands in the prompt; a document's header belongs to its first chunk, its line end to the last."""
    header = "Document: " if not title else f"Document (Title: {title}): "
    return (header if opens_document else "") + text + ("\n" if closes_document else "")


def question_segment(question: str, answer_lead: str, options: Sequence[str] = ()) -> str:
    """The end of the prompt, options under their letters; generation goes on right behind it."""
    listed = "".join(f"({letter}) {option}\n" for letter, option in zip(LETTERS, options, strict=False))
    return f"Question: {question}\n{listed}Answer:" + (f" {answer_lead}" if answer_lead else "")


def target(answers: Sequence[str], gold_option: int) -> str:
    """What is trained on: the letter of the right option, else the first reference."""
    return LETTERS[gold_option] if gold_option >= 0 else answers[0]


def answer_segment(answer: str) -> str:
    """What is trained on and generated, before EOS. No blank ends the prompt: it would be a token of its own."""
    return f" {answer}"
