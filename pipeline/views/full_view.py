"""The full view x of an example: token ids of the whole context, question and answer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pipeline.common.tables import Evidence, gold_flags
from pipeline.views import prompts

Ids = Sequence[int]
Encode = Callable[[str], Ids]
"""Token ids of a text, without special tokens; `<mask>` or `</s>` inside the text are plain text."""

Cut = Literal["end", "middle"]


class ContextChunk(NamedTuple):
    """A chunk as a context holds it."""

    chunk_id: str
    document_id: str
    title: str
    text: str


class Context(NamedTuple):
    """Token ids of BOS, instruction and chunks, and the token span of each chunk; questions may share it."""

    input_ids: list[int]
    chunk_starts: list[int]
    chunk_ends: list[int]


class FullView(NamedTuple):
    """Token ids of context, question, answer and EOS; token span of each chunk; where question and answer begin.

    The view of an unlabelled question ends with the question.
    """

    input_ids: list[int]
    chunk_starts: list[int]
    chunk_ends: list[int]
    question_start: int
    prompt_end: int


def context(chunks: Sequence[ContextChunk], instruction: str, encode: Encode, bos_id: int) -> Context:
    """Lay out the chunks, which are in context order; those of one document follow each other."""
    ids = [bos_id, *encode(prompts.instruction_segment(instruction))]
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
    return Context(ids, starts, ends)


def cut(laid: Context, max_tokens: int, where: Cut) -> Context:
    """The context with at most `max_tokens` tokens; BOS, instruction and the last token (a line end) always stay.

    `end` leaves out the last chunks' tokens, `middle` those in the middle of all chunks, as LongBench does. Spans of
    chunks that are gone are empty.
    """
    excess = len(laid.input_ids) - max_tokens
    if excess <= 0 or not laid.chunk_starts:
        return laid
    first = laid.chunk_starts[0]
    kept = len(laid.input_ids) - first - excess
    assert kept > 0, "the caller knows that the question leaves room for a context"
    start = first + (kept - 1 if where == "end" else kept // 2)

    def moved(place: int) -> int:
        return min(place, start) if place < start + excess else place - excess

    ids = laid.input_ids[:start] + laid.input_ids[start + excess :]
    return Context(ids, [moved(place) for place in laid.chunk_starts], [moved(place) for place in laid.chunk_ends])


def full_view(laid: Context, question_ids: Ids, answer_ids: Ids, eos_id: int) -> FullView:
    """Context, question and answer in one row; without an answer there is no EOS either."""
    prompt = [*laid.input_ids, *question_ids]
    labels = [*answer_ids, eos_id] if answer_ids else []
    return FullView([*prompt, *labels], laid.chunk_starts, laid.chunk_ends, len(laid.input_ids), len(prompt))


class Lengths:
    """Sums over the rows of one split, and the shares they make."""

    def __init__(self) -> None:
        self.num_examples = self.num_tokens = self.longest = self.num_cut = 0
        self._num_gold_known = self._num_gold_cut = 0

    def add(
        self, num_tokens: int, whole: Context, cut: Context, spans: Iterable[tuple[str, int, int]], gold: list[Evidence]
    ) -> None:
        """Count a row of `num_tokens`: its context before and after the cut, its chunks as (document, start, end)."""
        self.num_examples += 1
        self.num_tokens += num_tokens
        self.longest = max(self.longest, num_tokens)
        self.num_cut += len(cut.input_ids) < len(whole.input_ids)
        flags = list(gold_flags(spans, gold))
        if any(flags):
            places = zip(flags, whole.chunk_starts, whole.chunk_ends, cut.chunk_starts, cut.chunk_ends, strict=True)
            self._num_gold_known += 1
            self._num_gold_cut += any(
                flag and cut_end - cut_start < end - start for flag, start, end, cut_start, cut_end in places
            )

    def shares(self) -> dict[str, Any]:
        """`cut`: rows whose context was cut; `gold_cut`: rows that lost tokens of a gold chunk, of those that know one
        (None without any)."""
        known = self._num_gold_known
        return {
            "num_examples": self.num_examples,
            "mean_tokens": self.num_tokens / self.num_examples,
            "max_tokens": self.longest,
            "cut": self.num_cut / self.num_examples,
            "gold_cut": self._num_gold_cut / known if known else None,
        }
