"""Compare retrievers on finding the evidence: encoder, BM25, their fusion, and variants of the text that is scored.

    python benchmarks/retrieval.py FOLDER [--only hotpot qasper nq] [--words 100 200 300] [--questions 500]

FOLDER holds nq/nq-open-oracle.jsonl.gz, qasper/qasper_pieces.json and hotpotqa/hotpot_dev_distractor_sample.json. A
hit at k means that a gold chunk (tables.gold_flags) is among the k best, in % with its standard error. Each system has
one setting, chosen beforehand; none was tuned on these questions. The last columns hold the difference from the first
row's hits at 1 and at 5, in points, with the p-value of McNemar's exact test.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import regex
from numpy.typing import NDArray

from pipeline.common import files, tables
from pipeline.common.device import device
from pipeline.common.tables import Document, Example
from pipeline.data import jsonl, splits
from pipeline.data.benchmarks import hotpot, qasper
from pipeline.data.jsonl import JsonRows, Rejects
from pipeline.data.splits import OfficialFiles
from pipeline.evaluation import bootstrap
from pipeline.retrieval import chunking, embed, embedding_cache, recall, retrievers
from pipeline.retrieval.encoder import TextEncoder
from pipeline.retrieval.retrievers import Candidates
from pipeline.runtime import config
from pipeline.runtime.settings import EncoderRetriever

KS = (1, 3, 5, 10)
PAIR_KS = (2, 3, 5)
TESTED_KS = (1, 5)
NEIGHBOUR_SENTENCES = 2  # on either side of a chunk
BM25 = {"k1": 1.5, "b": 0.75}
RANK_CONSTANT = 60.0
STOP_WORDS = frozenset(
    "a an and are as at be by did do does for from had has have how in is it its of on or that the their they this to "
    "was were what when where which who whom whose why will with".split()
)
_SENTENCE = regex.compile(
    r"""\S.*?(?:[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\p{Pi}"']*(?=\s)|(?=\n\s*\n)|\Z)""", regex.DOTALL
)

ContextScorer = Callable[[Candidates], retrievers.ChunkScores]


class Chunk(NamedTuple):
    """Characters [start, end) of a document, and the heading they stand under (empty: none)."""

    document: Document
    start: int
    end: int
    heading: str = ""

    @property
    def text(self) -> str:
        return self.document.text[self.start : self.end]


class Task(NamedTuple):
    """Chunks, and questions with candidates among them; `rows_C` are rows of `chunks`."""

    name: str
    chunks: list[Chunk]
    contexts: list[Candidates]


def nq(folder: Path, num_questions: int) -> Task:
    """Ask the first questions over all passages."""
    records = [record for _, record in JsonRows([folder / "nq/nq-open-oracle.jsonl.gz"], Rejects())]
    row_of: dict[tuple[str, str], int] = {}
    gold_of: dict[str, set[int]] = {}
    for number, record in enumerate(records):
        passage = record["ctxs"][0]
        row = row_of.setdefault((passage["title"], passage["text"]), len(row_of))
        if number < num_questions:
            gold_of.setdefault(record["question"], set()).add(row)
    chunks = [Chunk(Document(str(row), title, text), 0, len(text)) for (title, text), row in row_of.items()]
    everywhere = np.arange(len(chunks), dtype=np.int32)
    contexts = [
        Candidates(asked, asked, everywhere, np.isin(everywhere, list(gold))) for asked, gold in gold_of.items()
    ]
    return Task("NQ, whole collection", chunks, contexts)


def within_papers(folder: Path, max_words: int) -> Task:
    """Ask Qasper's questions with evidence, each over the chunks of its paper."""
    rejects = Rejects()
    entries = JsonRows([folder / "qasper/qasper_pieces.json"], rejects)
    benchmark = splits.benchmark(qasper.read, OfficialFiles({"train": entries}, rejects.reject, seed=0))
    papers = jsonl.parse(qasper.with_paper_ids(entries), qasper.Paper, rejects.reject)
    headings = {paper.paper_id: _headings(paper) for _, paper in papers}
    chunks_of: dict[str, list[Chunk]] = {}
    for document in benchmark.documents:
        for start, end in chunking.split(document.text, max_words):
            above = [heading for place, heading in headings[document.document_id] if place <= start]
            chunk = Chunk(document, start, end, above[-1] if above else "")
            chunks_of.setdefault(document.document_id, []).append(chunk)
    return _task(f"Qasper, chunks of {max_words} words", chunks_of, benchmark.examples)


def paragraphs(folder: Path) -> Task:
    """Ask HotpotQA's questions, each over its paragraphs."""
    rejects = Rejects()
    entries = JsonRows([folder / "hotpotqa/hotpot_dev_distractor_sample.json"], rejects)
    benchmark = splits.benchmark(hotpot.read, OfficialFiles({"train": entries}, rejects.reject, seed=0))
    chunks_of = {document.document_id: [Chunk(document, 0, len(document.text))] for document in benchmark.documents}
    return _task("HotpotQA, paragraphs", chunks_of, benchmark.examples)


def _task(name: str, chunks_of: dict[str, list[Chunk]], examples: Iterator[Example]) -> Task:
    first_row, chunks = {}, []
    for document_id, found in chunks_of.items():
        first_row[document_id] = len(chunks)
        chunks += found
    contexts = []
    for example in examples:
        rows = [first_row[name] + place for name in example.document_ids for place in range(len(chunks_of[name]))]
        spans = [(chunks[row].document.document_id, chunks[row].start, chunks[row].end) for row in rows]
        gold = np.array(list(tables.gold_flags(spans, example.evidence)))
        if gold.any():
            contexts.append(Candidates(example.example_id, example.question, np.array(rows, dtype=np.int32), gold))
    return Task(name, chunks, contexts)


def _headings(paper: qasper.Paper) -> list[tuple[int, str]]:
    """Return the start and the name of each section."""
    _, span_of = qasper.layout(paper)
    names = [section.section_name or "" for section in paper.full_text]
    return sorted((span_of[key][0], name) for name in names if (key := " ".join(name.split())) in span_of)


class Systems:
    """The retrievers that are compared on one task."""

    def __init__(self, task: Task, encoder: EncoderRetriever, cache: embedding_cache.Cache) -> None:
        self._task, self._cache = task, cache
        self._encoder_of = {
            cut: TextEncoder(encoder.model_copy(update={"max_tokens": cut}), device()) for cut in (256, 512)
        }
        self._questions = list(dict.fromkeys(context.question for context in task.contexts))
        self._with_title = [retrievers.chunk_text(c.document.title, c.text, with_title=True) for c in task.chunks]

    def __iter__(self) -> Iterator[tuple[str, ContextScorer]]:
        """Yield name and scorer; the expensive ones last."""
        short, long = self._dense(self._with_title, 256), self._dense(self._with_title, 512)
        bm25 = retrievers.Bm25Scorer(self._with_title, **BM25)
        yield "MiniLM, 256 tokens", short.scores
        yield "MiniLM, 512 tokens", long.scores
        yield "BM25", bm25.scores
        yield "BM25, small stop list", self._without_stop_words()
        yield "reciprocal rank fusion, 256", retrievers.FusionScorer([short, bm25], RANK_CONSTANT).scores
        yield "reciprocal rank fusion, 512", retrievers.FusionScorer([long, bm25], RANK_CONSTANT).scores
        yield "z-score fusion, 512", lambda asked: _standard(long.scores(asked)) + _standard(bm25.scores(asked))
        yield "random", retrievers.ControlScorer("random", 1).scores
        if any(chunk.heading for chunk in self._task.chunks):
            yield from self._both("section heading", [self._headed(chunk) for chunk in self._task.chunks])
        if any((chunk.start, chunk.end) != (0, len(chunk.document.text)) for chunk in self._task.chunks):
            yield "MiniLM, best sentence", self._best_sentence()
            yield from self._both("overlapping windows", [self._widened(chunk) for chunk in self._task.chunks])
        if all(chunk.document.title for chunk in self._task.chunks):
            yield from self._both("no title", [chunk.text for chunk in self._task.chunks])

    def _both(self, what: str, texts: list[str]) -> Iterator[tuple[str, ContextScorer]]:
        yield f"BM25, {what}", retrievers.Bm25Scorer(texts, **BM25).scores
        yield f"MiniLM, 512 tokens, {what}", self._dense(texts, 512).scores

    @property
    def cut_share(self) -> dict[int, float]:
        """max_tokens -> share of the chunks that it truncates."""
        num_tokens_N = self._embed(256, self._with_title, "chunks").num_tokens_N
        return {cut: float((num_tokens_N > cut).mean()) for cut in self._encoder_of}

    def _embed(self, cut: int, texts: Sequence[str], what: str) -> embed.Embedded:
        return embed.embed(self._encoder_of[cut], self._cache, texts, what)

    def _dense(self, texts: Sequence[str], cut: int) -> retrievers.DenseScorer:
        """Embed with max_tokens 256, and only the texts that it truncates with the larger `cut`."""
        asked = self._embed(256, self._questions, "questions").embedding_ND
        read = self._embed(256, texts, "chunks")
        embedding_ND = read.embedding_ND.copy()
        longer = np.flatnonzero(read.num_tokens_N > 256)
        if cut > 256 and len(longer):
            embedding_ND[longer] = self._embed(cut, [texts[row] for row in longer], "chunks").embedding_ND
        return retrievers.DenseScorer(self._questions, asked, embedding_ND, "cosine")

    def _without_stop_words(self) -> ContextScorer:
        def rest(text: str) -> str:
            return " ".join(word for word in regex.findall(r"\w+", text.lower()) if word not in STOP_WORDS)

        scorer = retrievers.Bm25Scorer([rest(text) for text in self._with_title], **BM25)
        return lambda asked: scorer.scores(asked._replace(question=rest(asked.question)))

    @cached_property
    def _sentences_of(self) -> dict[str, list[tuple[int, int]]]:
        found = {chunk.document.document_id: chunk.document.text for chunk in self._task.chunks}
        return {name: [match.span() for match in _SENTENCE.finditer(text)] for name, text in found.items()}

    def _sentences(self, chunk: Chunk) -> list[tuple[int, int]]:
        """Return the sentences that start in the chunk, or the chunk itself if it lies inside one long sentence."""
        spans = self._sentences_of[chunk.document.document_id]
        return [span for span in spans if chunk.start <= span[0] < chunk.end] or [(chunk.start, chunk.end)]

    def _headed(self, chunk: Chunk) -> str:
        """Join title, heading and text; a heading that opens the chunk is not repeated."""
        text = chunk.text if chunk.text.startswith(chunk.heading) else f"{chunk.heading}\n{chunk.text}"
        return retrievers.chunk_text(chunk.document.title, text, with_title=True)

    def _widened(self, chunk: Chunk) -> str:
        """Extend the chunk by the last sentences before it and the first ones after it."""
        spans = self._sentences_of[chunk.document.document_id]
        before = [start for start, _ in spans if start < chunk.start][-NEIGHBOUR_SENTENCES:]
        behind = [end for start, end in spans if start >= chunk.end][:NEIGHBOUR_SENTENCES]
        text = chunk.document.text[(before or [chunk.start])[0] : (behind or [chunk.end])[-1]]
        return retrievers.chunk_text(chunk.document.title, text, with_title=True)

    def _best_sentence(self) -> ContextScorer:
        """Score a chunk by the best sentence in it."""
        texts, row_of = [], []
        for row, chunk in enumerate(self._task.chunks):
            for start, end in self._sentences(chunk):
                texts.append(chunk.document.text[start:end])
                row_of.append(row)
        scorer, rows = self._dense(texts, 256), np.array(row_of)

        def scores(candidates: Candidates) -> retrievers.ChunkScores:
            sentences = np.flatnonzero(np.isin(rows, candidates.rows_C)).astype(np.int32)
            best_N = np.full(len(self._task.chunks), -np.inf, dtype=np.float32)
            np.maximum.at(best_N, rows[sentences], scorer.scores(candidates._replace(rows_C=sentences)))
            return best_N[candidates.rows_C]

        return scores


def _standard(scores_C: retrievers.ChunkScores) -> retrievers.ChunkScores:
    return (scores_C - scores_C.mean()) / max(float(scores_C.std()), 1e-6)


def _percent(hits: NDArray[np.bool_]) -> str:
    share = hits.mean()
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / len(hits)):.1f}"


def show(task: Task, encoder: EncoderRetriever, cache: embedding_cache.Cache) -> None:
    """Print one table."""
    systems = Systems(task, encoder, cache)
    pairs = all(context.gold_C.sum() == 2 for context in task.contexts)
    cut = ", ".join(f"{share:.1%} above {tokens} tokens" for tokens, share in systems.cut_share.items())
    print(
        f"\n{task.name}: {len(task.contexts)} questions, {len(task.chunks):,} chunks, "
        f"{np.mean([len(context.rows_C) for context in task.contexts]):,.1f} in a context on average; {cut}\n"
    )
    headings = ["system", *(f"hit@{k}" for k in KS), *(f"both@{k}" for k in PAIR_KS if pairs)]
    headings += [f"@{k}, less row 1" for k in TESTED_KS]
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    first: NDArray[np.int32] | None = None
    for name, scores in systems:
        ranks = [retrievers.ranks(scores(context), name, context.example_id) for context in task.contexts]
        best = np.array([recall.best_rank(r, context.gold_C) for r, context in zip(ranks, task.contexts, strict=True)])
        worst = np.array([r[context.gold_C].max() for r, context in zip(ranks, task.contexts, strict=True)])
        cells = [_percent(best < k) for k in KS] + [_percent(worst < k) for k in PAIR_KS if pairs]
        first = best if first is None else first
        for k in TESTED_KS:
            found = bootstrap.paired_difference(best < k, first < k, resamples=100, seed=0)
            cells.append(f"{100 * found.difference:+.1f} (p = {found.p_value:.2g})")
        print(f"| {' | '.join([name, *cells])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=("hotpot", "qasper", "nq"), default=["hotpot", "qasper", "nq"])
    parser.add_argument("--words", type=int, nargs="+", default=[100, 200, 300], help="of a chunk of Qasper")
    parser.add_argument("--questions", type=int, default=500, help="of NQ; the passages are always all 2,600")
    arguments = parser.parse_args()
    encoder = config.load_retrievers(["minilm"], Path(__file__).resolve().parents[1])["minilm"]
    with closing(embedding_cache.Cache(files.cache_folder() / embedding_cache.FILE)) as cache:
        if "hotpot" in arguments.only:
            show(paragraphs(arguments.folder), encoder, cache)
        if "qasper" in arguments.only:
            for max_words in arguments.words:
                show(within_papers(arguments.folder, max_words), encoder, cache)
        if "nq" in arguments.only:
            show(nq(arguments.folder, arguments.questions), encoder, cache)


if __name__ == "__main__":
    main()
