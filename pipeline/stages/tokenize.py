"""Stage tokenize: the full view of every example. Knows nothing of retrieval, so vanilla never reruns for it."""

from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from pipeline import config, tables, tokenization
from pipeline.core import views
from pipeline.errors import DataError, run
from pipeline.settings import TokenizeStage

CHUNKS, EXAMPLES, FULL = Path("data/chunks.parquet"), Path("data/examples.parquet"), Path("data/views/full.parquet")


def main() -> None:
    max_tokens = config.load(TokenizeStage).model.max_tokens
    base = tokenization.load()
    encode = tokenization.encoder(base.tokenizer)
    chunks_of: dict[str, list[views.ContextChunk]] = defaultdict(list)
    for row in tables.scan(CHUNKS, tables.CHUNKS, ["chunk_id", "document_id", "title", "text"]):
        chunks_of[row["document_id"]].append(views.ContextChunk(**row))
    num_tokens = longest = 0
    with tables.Writer(FULL, tables.FULL_VIEWS, {"tokenizer_sha256": base.tokenizer_sha256}) as writer:
        for row in tqdm(tables.scan(EXAMPLES, tables.EXAMPLES), desc="tokenize", unit=" examples", disable=None):
            context = [chunk for document_id in row["document_ids"] for chunk in chunks_of[document_id]]
            view = views.full_view(
                context, row["question"], row["answer_lead"], row["answers"][0], encode,
                bos_id=base.bos_id, eos_id=base.eos_id,
            )  # fmt: skip
            if len(view.input_ids) > max_tokens:
                raise DataError(
                    f"example {row['example_id']} has {len(view.input_ids):,} tokens, model.max_tokens allows "
                    f"{max_tokens:,}; give it a shorter context, or raise model.max_tokens if the model can read it"
                )
            writer.write(
                {
                    **{name: row[name] for name in ("example_id", "question_id", "split", "gold_position")},
                    "num_documents": len(row["document_ids"]),
                    "document_ids": row["document_ids"],
                    "chunk_ids": [chunk.chunk_id for chunk in context],
                    **view._asdict(),
                }
            )
            num_tokens += len(view.input_ids)
            longest = max(longest, len(view.input_ids))
    mean = num_tokens / max(writer.num_rows, 1)
    print(f"tokenize: {writer.num_rows:,} full views, {mean:,.0f} tokens on average, {longest:,} at most")


if __name__ == "__main__":
    run(main)
