"""Stage chunk: documents into chunks with exact character offsets. No torch."""

from pathlib import Path

from tqdm import tqdm

from pipeline import config, tables
from pipeline.core import chunking
from pipeline.errors import run
from pipeline.settings import ChunkStage

DOCUMENTS, CHUNKS = Path("data/documents.parquet"), Path("data/chunks.parquet")


def main() -> None:
    max_words = config.load(ChunkStage).chunk.words
    num_documents = num_whole = num_words = longest = 0
    with tables.Writer(CHUNKS, tables.CHUNKS) as writer:
        documents = tables.scan(DOCUMENTS, tables.DOCUMENTS)
        for row in tqdm(documents, desc="chunk", unit=" documents", disable=None):
            document_id, title, text = row["document_id"], row["title"], row["text"]
            spans = [(0, len(text))] if row["whole"] else chunking.split(text, max_words)
            for index, (start, end) in enumerate(spans):
                writer.write(
                    {
                        "chunk_id": f"{document_id}#{index}",
                        "document_id": document_id,
                        "index": index,
                        "start": start,
                        "end": end,
                        "title": title,
                        "text": text[start:end],
                    }
                )
                words = len(text[start:end].split())
                num_words += words
                longest = max(longest, words)
            num_documents += 1
            num_whole += len(spans) == 1
    print(
        f"chunk: {num_documents:,} documents in {writer.num_rows:,} chunks, {num_words / max(writer.num_rows, 1):,.0f} "
        f"words on average, {longest:,} at most; {num_whole:,} documents are one chunk"
    )


if __name__ == "__main__":
    run(main)
