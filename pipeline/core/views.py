"""The full view x of an example: the token ids of its whole context, its question and its answer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.core import prompts

Encode = Callable[[str], Sequence[int]]
"""Token ids of a text, without special tokens; `<mask>` or `</s>` inside the text are plain text."""


class ContextChunk(NamedTuple):
    """A chunk as a context holds it."""

    chunk_id: str
    document_id: str
    title: str
    text: str


class FullView(NamedTuple):
    """Token ids of BOS, instruction, chunks, question, answer, EOS; token span of each chunk; length of the prompt."""

    input_ids: list[int]
    chunk_starts: list[int]
    chunk_ends: list[int]
    prompt_end: int


def full_view(
    chunks: Sequence[ContextChunk],
    question: str,
    answer_lead: str,
    answer: str,
    encode: Encode,
    *,
    bos_id: int,
    eos_id: int,
) -> FullView:
    """Lay out one example. `chunks` are in context order; the chunks of one document follow each other."""
    ids = [bos_id, *encode(prompts.INSTRUCTION)]
    starts, ends = [], []
    for index, chunk in enumerate(chunks):
        starts.append(len(ids))
        ids += encode(
            prompts.chunk_segment(
                chunk.title,
                chunk.text,
                opens_document=index == 0 or chunks[index - 1].document_id != chunk.document_id,
                closes_document=index + 1 == len(chunks) or chunks[index + 1].document_id != chunk.document_id,
            )
        )
        ends.append(len(ids))
    ids += encode(prompts.question_segment(question, answer_lead))
    prompt_end = len(ids)
    ids += [*encode(prompts.answer_segment(answer)), eos_id]
    return FullView(ids, starts, ends, prompt_end)
