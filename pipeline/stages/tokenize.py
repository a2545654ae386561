"""Stage tokenize: the full view of every example. Knows nothing of retrieval, so vanilla never reruns for it.

reports/tokenize.json has the settings and full_view.lengths.
"""

from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from pipeline.common import base_card, files, tables
from pipeline.common.tables import Evidence
from pipeline.runtime import config
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.views import full_view, prompts, tasks, tokenizer

SUMMARY = Path("reports/tokenize.json")
MIN_CONTEXT_TOKENS = 16  # beside a question; fewer are no context


def main() -> None:
    settings = config.load("tokenize")
    max_tokens, too_long = settings.model.max_tokens, settings.context.too_long
    card = base_card.read_card()
    encode = tokenizer.encoder(tokenizer.load())
    spans_of: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    chunks_of: dict[str, list[full_view.ContextChunk]] = defaultdict(list)
    columns = ["chunk_id", "document_id", "start", "end", "title", "text"]
    for row in tables.scan(tables.CHUNKS, columns):
        spans_of[row["document_id"]].append((row["document_id"], row.pop("start"), row.pop("end")))
        chunks_of[row["document_id"]].append(full_view.ContextChunk(**row))
    rooms = {} if too_long == "refuse" else _rooms(encode, max_tokens)
    sizes: list[tables.Row] = []
    with tables.Writer(tables.FULL_VIEWS, {"tokenizer_sha256": card.tokenizer_sha256}) as writer:
        for row in tqdm(tables.scan(tables.EXAMPLES), desc="tokenize", unit=" examples", disable=None):
            names = row["document_ids"]
            chunks = [chunk for document_id in names for chunk in chunks_of[document_id]]
            whole = full_view.context(chunks, tasks.of(row["benchmark"]).instruction, encode, card.bos_id)
            laid = whole if too_long == "refuse" else full_view.cut(whole, rooms[tuple(names)], too_long)
            view = full_view.full_view(laid, *_question_and_answer(row, encode), card.eos_id)
            if len(view.input_ids) > max_tokens:
                raise DataError(
                    f"example {row['example_id']} has {len(view.input_ids):,} tokens, model.max_tokens allows "
                    f"{max_tokens:,}; give it a shorter context, raise model.max_tokens if the model can read it, or "
                    "set context.too_long to cut_end or cut_middle"
                )
            writer.write(
                {
                    **{name: row[name] for name in ("example_id", "question_id", "split", "gold_position")},
                    "num_documents": len(names),
                    "document_ids": names,
                    "chunk_ids": [chunk.chunk_id for chunk in chunks],
                    **view._asdict(),
                }
            )
            spans = [span for document_id in names for span in spans_of[document_id]]
            evidence = [Evidence(**span) for span in row["evidence"]]
            sizes.append({"split": row["split"], **full_view.sizes(view, whole, laid, spans, evidence)})
    splits = full_view.lengths(sizes)
    files.write_json(SUMMARY, {"max_tokens": max_tokens, "too_long": too_long, "splits": splits})
    num_tokens, num_cut = (sum(row[name] for row in sizes) for name in ("tokens", "cut"))
    longest = max(row["tokens"] for row in sizes)
    print(
        f"tokenize: {writer.num_rows:,} full views, {num_tokens / writer.num_rows:,.0f} tokens on average, {longest:,} "
        f"at most; {num_cut:,} contexts cut" + (f" ({too_long}, model.max_tokens {max_tokens:,})" if num_cut else "")
    )


def _question_and_answer(row: tables.Row, encode: full_view.Encode) -> tuple[full_view.Ids, full_view.Ids]:
    """Token ids; none of the answer of an unlabelled question."""
    question = encode(prompts.question_segment(row["question"], row["answer_lead"], row["options"]))
    if not row["answers"]:
        return question, []
    return question, encode(prompts.answer_segment(prompts.target(row["answers"], row["gold_option"])))


def _rooms(encode: full_view.Encode, max_tokens: int) -> dict[tuple[str, ...], int]:
    """Tokens left for each context beside the longest of its questions and answers: its questions share one cut.

    Raises:
        DataError: a question and its answer alone leave no room.
    """
    rooms: dict[tuple[str, ...], int] = {}
    for row in tables.scan(tables.EXAMPLES):
        instruction = encode(prompts.instruction_segment(tasks.of(row["benchmark"]).instruction))
        question, answer = _question_and_answer(row, encode)
        room = max_tokens - len(question) - len(answer) - 1  # for EOS
        if room < len(instruction) + MIN_CONTEXT_TOKENS:
            raise DataError(
                f"example {row['example_id']}: question and answer have {len(question) + len(answer):,} tokens, which "
                f"leaves no context within model.max_tokens {max_tokens:,}; shorten them, or raise model.max_tokens"
            )
        context = tuple(row["document_ids"])
        rooms[context] = min(rooms.get(context, room), room)
    return rooms


if __name__ == "__main__":
    run(main)
