"""The page's examples to read: which are shown, what each method answered, and where the documents hold the answers."""

import string
from collections.abc import Collection, Mapping, Sequence

import polars as pl

from pipeline.common.tables import Row
from pipeline.common.text import find_answer
from pipeline.report.summary import row_name
from pipeline.views import prompts

KINDS = ("correct", "distraction", "other")
EXCERPT_CHARACTERS = 900  # of a document that holds an answer; longer ones are cut around the marked words
FOLDED_CHARACTERS = 500  # of any other document
ALL_FOLDED_CHARACTERS = 400_000  # of all these together: the more documents, the less of each is shown
_ENDS = string.punctuation + string.whitespace

Span = tuple[int, int, str]
"""Start, end and mark of a piece of text."""
Segment = tuple[str, str]
"""A piece of text and its mark: right or wrong answer, or empty."""


def choose(predictions: pl.DataFrame, *, num: int, longest: int) -> list[str]:
    """Choose the ids of up to `num` examples with at least `longest` documents, in the order of the predictions.

    They are spread evenly over methods and kinds of answer on the full context: every pair of the two gives equally
    many, taken at equal steps from its examples, while it has enough. The choice does not depend on the texts.
    """
    rows = predictions.filter(pl.col("input") == "full", pl.col("num_documents") >= longest)
    pairs = rows.group_by("method", "error").agg("example_id").sort(pl.col("example_id").list.len(), "method", "error")
    order: list[str] = rows["example_id"].unique(maintain_order=True).to_list()
    chosen: set[str] = set()
    # Small pairs first: what they lack is spread over the larger ones, and in the end over all examples.
    pools = [*pairs["example_id"].to_list(), order]
    for number, ids in enumerate(pools):
        free = [example_id for example_id in ids if example_id not in chosen]
        wanted = min((num - len(chosen)) // max(1, len(pools) - 1 - number), len(free))
        chosen |= {free[index * len(free) // wanted] for index in range(wanted)}
    return [example_id for example_id in order if example_id in chosen]


def folded_characters(num_documents: int) -> int:
    """Number of characters of each folded document on a page that shows so many documents."""
    return min(FOLDED_CHARACTERS, ALL_FOLDED_CHARACTERS // max(1, num_documents))


def assemble(
    example: Row, documents: Mapping[str, Row], kept: Collection[str], predictions: Sequence[Row], folded: int
) -> Row:
    """Put together what the page shows of an example: the documents of its context and every answer to it.

    Args:
        documents: document_id -> row, at least for the documents of the context.
        kept: ids of the chunks of the masked view, <document_id>#<index>.
        predictions: of this example, in the order in which they are shown.
        folded: number of characters shown of a document that holds no answer.
    """
    options, gold_option = example["options"], example["gold_option"]
    right = [options[gold_option]] if options else example["answers"]
    kept_documents = {chunk_id.rpartition("#")[0] for chunk_id in kept}
    context = []
    for position, document_id in enumerate(example["document_ids"], start=1):
        document = documents[document_id]
        title, text = document["title"], document["text"]
        gold = document_id in example["gold_document_ids"]
        wrong = [row for row in predictions if row["distractor_id"] == document_id]
        answers = {"right": right if gold else [], "wrong": [row["prediction"] for row in wrong]}
        evidence = sorted(
            (span["start"], span["end"], "right") for span in example["evidence"] if span["document_id"] == document_id
        )
        context.append(
            {
                "position": position,
                "title": _segments(title, _spans(title, answers), len(title)),
                "text": _segments(
                    text, _spans(text, answers) or evidence, EXCERPT_CHARACTERS if gold or wrong else folded
                ),
                "gold": gold,
                "kept": document_id in kept_documents,  # at least one of its chunks
                "answered_by": [row_name(row["method"], row["input"]) for row in wrong],
            }
        )
    return {
        "example_id": example["example_id"],
        "question": example["question"],
        "options": [(_option(options, index), index == gold_option) for index in range(len(options))],
        "answer_lead": example["answer_lead"],
        "right": [_option(options, gold_option)] if options else right,
        "answers": [_answer(row, options) for row in predictions],
        "context": context,
    }


def _option(options: Sequence[str], index: int) -> str:
    return f"({prompts.LETTERS[index]}) {options[index]}"


def _answer(row: Row, options: Sequence[str]) -> Row:
    """Describe one prediction; the answer to a multiple-choice question is an option, and what was generated a note."""
    shown = {"name": row_name(row["method"], row["input"]), "text": row["prediction"], "note": "", "kind": row["error"]}
    if options and row["likeliest_option"] >= 0:
        shown |= {"text": _option(options, row["likeliest_option"]), "note": row["prediction"]}
    return {"method": row["method"], "input": row["input"], **shown}


def _spans(text: str, answers: Mapping[str, Sequence[str]]) -> list[Span]:
    """Find answers (mark -> texts) in the text, in order; where two start at one place, the right one is first."""
    return sorted(
        (*span, mark)
        for mark, texts in answers.items()
        for answer in dict.fromkeys(texts)
        for span in find_answer(text, answer.rstrip(_ENDS))
    )


def _segments(text: str, spans: Sequence[Span], length: int) -> list[Segment]:
    """Cut a text at its spans, of overlapping ones the first; a long text to `length` characters around the first."""
    first = spans[0][0] if spans else 0
    start = max(0, min(first - length // 3, len(text) - length))
    end = min(start + length, len(text))
    segments, last = [("… " if start else "", "")], start
    for low, high, mark in spans:
        if last <= low < end:
            segments += [(text[last:low], ""), (text[low : min(high, end)], mark)]
            last = min(high, end)
    segments += [(text[last:end], ""), (" …" if end < len(text) else "", "")]
    return [(piece, mark) for piece, mark in segments if piece]
