"""Stage tokenize: the full view of every example. Knows nothing of retrieval, so vanilla never reruns for it.

reports/tokenize.json has the settings and full_view.lengths.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl
from tqdm import tqdm

from pipeline.common import base_card, chunks, cluster, files, tables
from pipeline.common.tables import Evidence
from pipeline.common.text import text_key
from pipeline.runtime import config
from pipeline.runtime.errors import DataError, counted
from pipeline.runtime.main import run
from pipeline.views import full_view, layout, prompts, tasks, tokenizer

SUMMARY = Path("reports/tokenize.json")
SOURCES = (tables.CHUNKS, tables.EXAMPLES)
MIN_CONTEXT_TOKENS = 16  # beside a question; fewer are no context


def main() -> None:
    settings = config.load("tokenize")
    max_tokens, too_long = settings.model.max_tokens, settings.context.too_long
    card = base_card.read_card()
    tables.require_together(*SOURCES)
    rooms = {} if too_long == "refuse" else _rooms(layout.Layout(tokenizer.load(), card), max_tokens)
    make = partial(_full_views, max_tokens, too_long, rooms)
    sizes = tables.FrameBuilder()
    with tables.writer(tables.FULL_VIEWS, {"tokenizer_sha256": card.tokenizer_sha256}, SOURCES) as writer:
        examples = tqdm(tables.scan(tables.EXAMPLES), desc="tokenize", unit=" examples", disable=None)
        reads = [tables.CHUNKS.path, base_card.BASE / base_card.CARD]
        for row, size in cluster.mapped(make, examples, settings.context.engine, "context.engine", reads):
            writer.write(row)
            sizes.append(size)
    measured = sizes.collected()
    splits = full_view.lengths(measured)
    files.write_json(SUMMARY, {"max_tokens": max_tokens, "too_long": too_long, "splits": splits})
    num_tokens, num_cut, longest = measured.select(
        pl.col("tokens").sum(), pl.col("cut").sum(), longest=pl.col("tokens").max()
    ).row(0)
    print(
        f"tokenize: {counted(writer.num_rows, 'full view')}, {num_tokens / writer.num_rows:,.0f} tokens on average, "
        f"{longest:,} at most; {counted(num_cut, 'context')} cut"
        + (f" ({too_long}, model.max_tokens {max_tokens:,})" if num_cut else "")
    )


def _full_views(
    max_tokens: int, too_long: Literal["refuse"] | full_view.Cut, rooms: Mapping[tuple[str, ...], int]
) -> Callable[[tables.Row], tuple[tables.Row, tables.Row]]:
    """Return what makes the full view of an example, and its sizes; `rooms` are those of `_rooms`, if contexts are cut.

    What is returned raises DataError if the view is longer than the model allows, ArtifactError if a document has no
    chunks.
    """
    card, known = base_card.read_card(), chunks.read(tables.CHUNKS)
    writes, first_of = layout.Layout(tokenizer.load(), card), _first_with_text(known)

    def make(row: tables.Row) -> tuple[tables.Row, tables.Row]:
        names = row["document_ids"]
        tables.require_ids(tables.CHUNKS, known.documents, names, tables.EXAMPLES)
        context = [chunk for document_id in names for chunk in known.of(document_id)]
        whole = writes.context(context, tasks.of(row["benchmark"]).instruction)
        laid = whole if too_long == "refuse" else full_view.cut(whole, rooms[tuple(names)], too_long)
        view = full_view.full_view(laid, *_question_and_answer(row, writes), card.eos_id)
        if len(view.input_ids) > max_tokens:
            raise DataError(
                f"example {row['example_id']} has {len(view.input_ids):,} tokens, model.max_tokens allows "
                f"{max_tokens:,}; give it a shorter context, raise model.max_tokens if the model can read it, or "
                "set context.too_long to cut_end or cut_middle"
            )
        written = {
            **{name: row[name] for name in ("example_id", "question_id", "split", "gold_position")},
            "num_documents": len(names),
            "document_ids": names,
            "context_key": _context_key(names, row["gold_document_ids"], first_of),
            "chunk_ids": [chunk.chunk_id for chunk in context],
            **view._asdict(),
        }
        spans = ((chunk.document_id, chunk.start, chunk.end) for chunk in context)
        evidence = [Evidence(**span) for span in row["evidence"]]
        return written, {"split": row["split"], **full_view.sizes(view, whole, laid, spans, evidence)}

    return make


def _first_with_text(known: chunks.Chunks) -> dict[str, str]:
    """Map each document whose text an earlier one has, perhaps under another title, to the first of these."""
    first_of: dict[bytes, str] = {}
    keys = ((name, text_key("".join(chunk.text for chunk in known.of(name)))) for name in known.documents)
    firsts = ((name, first_of.setdefault(key, name)) for name, key in keys)
    return {name: first for name, first in firsts if name != first}


def _context_key(names: Sequence[str], gold: Sequence[str], first_of: Mapping[str, str]) -> str:
    """Name what an example is about, as tables.FULL_VIEWS says."""
    if gold:
        return "\t".join(sorted({first_of.get(name, name) for name in gold}))
    return "\n".join(first_of.get(name, name) for name in names)


def _question_and_answer(row: tables.Row, writes: layout.Layout) -> tuple[full_view.Ids, full_view.Ids]:
    """Token ids; none of the answer of an unlabelled question."""
    question = writes.question(row["question"], row["answer_lead"], row["options"])
    if not row["answers"]:
        return question, []
    return question, writes.answer(prompts.target(row["answers"], row["gold_option"]), row["answer_lead"])


def _rooms(writes: layout.Layout, max_tokens: int) -> dict[tuple[str, ...], int]:
    """Tokens left for each context beside the longest of its questions and answers: its questions share one cut.

    Raises:
        DataError: a question and its answer alone leave no room.
    """
    rooms: dict[tuple[str, ...], int] = {}
    for row in tables.scan(tables.EXAMPLES):
        head = writes.context([], tasks.of(row["benchmark"]).instruction).input_ids
        question, answer = _question_and_answer(row, writes)
        room = max_tokens - len(question) - len(answer) - 1  # for EOS
        if room < len(head) + MIN_CONTEXT_TOKENS:
            raise DataError(
                f"example {row['example_id']}: question and answer have {len(question) + len(answer):,} tokens, which "
                f"leaves no context within model.max_tokens {max_tokens:,}; shorten them, or raise model.max_tokens"
            )
        context = tuple(row["document_ids"])
        rooms[context] = min(rooms.get(context, room), room)
    return rooms


if __name__ == "__main__":
    run(main)
