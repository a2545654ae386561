"""Natural Questions with distractors, in the JSONL format of Lost in the Middle (Liu et al. 2023, arXiv 2307.03172;
nelson-liu/lost-in-the-middle @29b8a6d0, qa_data).

Records that carry a context of several passages are taken as they are. Around a record with its gold passage alone
(nq-open-oracle) we build contexts: the passages of the other questions that BM25 ranks best for the question, without
any that holds an answer, as the authors' distractors hold none. Theirs come from all of Wikipedia, ours from the gold
passages of the same file: figures on our contexts are not comparable with the paper's.

All examples are of the test split: these questions are NQ's own development side, never to be trained on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.core import answers, retrieval
from pipeline.core.benchmarks import lines
from pipeline.core.benchmarks.lines import Lines, Reject, Some, Text
from pipeline.core.documents import Benchmark, Document, Evidence, Example
from pipeline.core.retrieval import Floats
from pipeline.errors import DataError

# Q questions, N passages of the collection

RECORDS_PER_BLOCK = 64  # scored at once

GoldPosition = Literal["spread", "first", "middle", "last"]


class Passage(BaseModel):
    """One of a record's `ctxs`."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    title: str = ""
    text: Text
    isgold: bool = False

    @cached_property
    def document_id(self) -> str:
        return f"nq-passage-{_digest(self.title, self.text)}"


class Record(BaseModel):
    """One line: a question, its references and its passages in order."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    question: Text
    answers: Some[Text]
    ctxs: Some[Passage]

    @property
    def question_id(self) -> str:
        return f"nq-{_digest(self.question)}"


class Context(NamedTuple):
    """A question over passages in order; `gold` are the places of its gold passages, from 0, empty if unknown."""

    place: str
    record: Record
    passages: Sequence[Passage]
    gold: Sequence[int]


def benchmark(
    records: Lines,
    reject: Reject,
    *,
    seed: int,
    num_documents: Sequence[int],
    gold_position: GoldPosition,
    max_questions: int | None,
) -> Benchmark:
    """Every passage once, and one example for each record with a context or each entry of `num_documents`.

    Memory holds the passages of the records we build contexts for, and ids.

    Raises:
        DataError: a question stands twice with the same number of documents and gold position, or there are too few
            passages to build a context from.
    """
    contexts = _Contexts(records, reject, seed, num_documents, gold_position, max_questions)
    return Benchmark(_documents(contexts), _examples(contexts))


def position_of_gold(where: GoldPosition, num_documents: int, question: int, seed: int) -> int:
    """Place of the gold passage from 0; `spread` gives any `num_documents` questions in a row each place once."""
    if where == "spread":
        block, turn = divmod(question, num_documents)
        return int(np.random.default_rng([seed, num_documents, block]).permutation(num_documents)[turn])
    return {"first": 0, "middle": (num_documents - 1) // 2, "last": num_documents - 1}[where]


class Collection:
    """Distinct passages, ranked by BM25 over lower-case words of title and text."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._tokens = [f"{answers.tokens(passage.title)}\n{answers.tokens(passage.text)}" for passage in passages]
        texts = [retrieval.chunk_text(passage.title, passage.text, with_title=True) for passage in passages]
        self._bm25 = retrieval.Bm25Scorer(texts, k1=1.5, b=0.75)

    def scores(self, questions: Sequence[str]) -> Floats:
        """scores_QN: of every passage for every question."""
        return self._bm25.collection_scores(questions)

    def distractors(self, record: Record, scores_N: Floats, count: int) -> list[Passage]:
        """The `count` best passages that hold no answer and are not the gold text again, best first.

        Raises:
            DataError: there are fewer.
        """
        wanted = [found for found in map(answers.tokens, record.answers) if found.strip()]
        taken = {answers.tokens(record.ctxs[0].text)}
        chosen: list[Passage] = []
        for index in np.argsort(-scores_N, kind="stable").tolist():
            if len(chosen) == count:
                break
            text = self._tokens[index].partition("\n")[2]
            if text not in taken and not any(answer in self._tokens[index] for answer in wanted):
                taken.add(text)
                chosen.append(self._passages[index])
        if len(chosen) < count:
            raise DataError(
                f"{record.question!r} needs {count} distractors, the collection has {len(chosen)} passages without an "
                "answer; lower data.num_documents"
            )
        return chosen


class _Contexts:
    """All contexts in order; each iteration reads the records anew and gives the same."""

    def __init__(
        self,
        records: Lines,
        reject: Reject,
        seed: int,
        num_documents: Sequence[int],
        gold_position: GoldPosition,
        max_questions: int | None,
    ) -> None:
        self._records, self._reject = records, reject
        self._seed, self._num_documents, self._gold_position = seed, num_documents, gold_position
        self._max_questions = max_questions

    def __iter__(self) -> Iterator[Context]:
        number_of: dict[str, int] = {}
        parsed = self._parsed()
        while block := list(islice(parsed, RECORDS_PER_BLOCK)):
            scores_QN = self._collection.scores([record.question for _, record in block])
            for (place, record), scores_N in zip(block, scores_QN, strict=True):
                number = number_of.setdefault(record.question, len(number_of))
                if self._max_questions is not None and number >= self._max_questions:
                    continue
                if len(record.ctxs) == 1:
                    yield from self._built(place, record, number, scores_N)
                else:
                    gold = [index for index, passage in enumerate(record.ctxs) if passage.isgold]
                    yield Context(place, record, record.ctxs, gold)

    def _built(self, place: str, record: Record, number: int, scores_N: Floats) -> Iterator[Context]:
        ranked = self._collection.distractors(record, scores_N, max(self._num_documents) - 1)
        for count in self._num_documents:
            position = position_of_gold(self._gold_position, count, number, self._seed)
            passages = [*ranked[:position], record.ctxs[0], *ranked[position : count - 1]]
            yield Context(place, record, passages, [position])

    @cached_property
    def _collection(self) -> Collection:
        alone = (record.ctxs[0] for _, record in self._parsed() if len(record.ctxs) == 1)
        return Collection(list({passage.document_id: passage for passage in alone}.values()))

    def _parsed(self) -> Iterator[tuple[str, Record]]:
        for place, record in lines.parse(self._records, Record, self._reject):
            if len(record.ctxs) == 1 and not record.ctxs[0].isgold:
                self._reject(place, "ctxs holds one passage, and it is not marked `isgold: true`")
            elif len({passage.document_id for passage in record.ctxs}) < len(record.ctxs):
                self._reject(place, "ctxs holds one passage twice")
            else:
                yield place, record


def _documents(contexts: _Contexts) -> Iterator[Document]:
    seen: set[str] = set()
    for context in contexts:
        for passage in context.passages:
            if passage.document_id not in seen:
                seen.add(passage.document_id)
                yield Document(passage.document_id, passage.title, passage.text, whole=True)


def _examples(contexts: _Contexts) -> Iterator[Example]:
    place_of: dict[str, str] = {}
    for place, record, passages, gold in contexts:
        gold_position = gold[0] if gold else -1
        example_id = f"{record.question_id}-{len(passages)}-{gold_position if gold else 'unknown'}"
        if example_id in place_of:
            raise DataError(
                f"{place}: {record.question!r} over {len(passages)} documents with gold position {gold_position} "
                f"already stands in {place_of[example_id]}; keep one of them"
            )
        place_of[example_id] = place
        yield Example(
            example_id=example_id,
            question_id=record.question_id,
            benchmark="nq",
            split="test",
            question=record.question,
            answer_lead="",
            answers=record.answers,
            document_ids=[passage.document_id for passage in passages],
            gold_document_ids=[passages[position].document_id for position in gold],
            evidence=[Evidence(passages[position].document_id, 0, len(passages[position].text)) for position in gold],
            gold_position=gold_position,
        )


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
