"""The text a model reads: instruction, documents, question, answer; cut into segments that are tokenized apart.

Segments keep a chunk's tokens the same wherever it stands: in another context, behind masked chunks, or alone with
retrieval at inference. For the same reason documents carry no running number. The layout (documents first, question
last) lets several questions share one context; the wording is our default [D], the paper's own is not known.
"""

INSTRUCTION = "Answer the question from the documents.\n"


def chunk_segment(title: str, text: str, *, opens_document: bool, closes_document: bool) -> str:
    """A chunk as it stands in the prompt; a document's header belongs to its first chunk, its line end to the last."""
    header = "Document: " if not title else f"Document (Title: {title}): "
    return (header if opens_document else "") + text + ("\n" if closes_document else "")


def question_segment(question: str, answer_lead: str) -> str:
    """The end of the prompt; generation goes on right behind it."""
    return f"Question: {question}\nAnswer:" + (f" {answer_lead}" if answer_lead else "")


def answer_segment(answer: str) -> str:
    """What is trained on and generated, before EOS."""
    return f" {answer}"
