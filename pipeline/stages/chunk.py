"""Stage chunk: cut documents into chunks with exact character offsets. No torch."""

from tqdm import tqdm

from pipeline.common import tables
from pipeline.common.text import word_spans
from pipeline.retrieval import chunking
from pipeline.runtime import config
from pipeline.runtime.errors import counted
from pipeline.runtime.main import run


def main() -> None:
    max_words = config.load("chunk").chunk.words
    num_documents = num_whole = num_words = longest = 0
    with tables.writer(tables.CHUNKS, sources=[tables.DOCUMENTS]) as writer:
        documents = tables.scan(tables.DOCUMENTS)
        for row in tqdm(documents, desc="chunk", unit=" documents", disable=None):
            chunks = chunking.rows(row, max_words)
            for chunk in chunks:
                writer.write(chunk)
                words = len(word_spans(chunk["text"]))
                num_words += words
                longest = max(longest, words)
            num_documents += 1
            num_whole += len(chunks) == 1
    print(
        f"chunk: {counted(num_documents, 'document')} in {counted(writer.num_rows, 'chunk')}, "
        f"{num_words / max(writer.num_rows, 1):,.0f} words on average, {longest:,} at most; "
        f"{counted(num_whole, 'document')} in one chunk"
    )


if __name__ == "__main__":
    run(main)
