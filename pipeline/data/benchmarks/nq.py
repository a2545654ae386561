"""Natural Questions with distractors: lines of Lost in the Middle (Liu et al. 2023, arXiv 2307.03172; its qa_data,
nelson-liu/lost-in-the-middle @29b8a6d0) and of NQ-open (google-research-datasets/natural-questions @fb26a307, nq_open).

Records that carry a context of several passages are taken as they are. Around a test record with its gold passage alone
(nq-open-oracle) we build contexts: the passages of the other such records that BM25 ranks best for the question,
without any that holds an answer, as the authors' distractors hold none. Theirs come from all of Wikipedia, ours from
the gold passages of the same files: figures on our contexts are not comparable with the paper's. Every other question
without a context, so all of NQ-open.train, gets gold passage and distractors out of a collection of passages, by BM25.

A question stays in the last of train, dev and test whose files ask it, whatever its case, blanks and final question
mark: Lost in the Middle's are NQ's own development side, never to be trained on. A passage whose words are those of a
passage of the test files is left out of the collection. Questions held out from train share the collection with it, and
records of train with a context keep theirs: `prepare` counts the documents that train has in common with dev or test.

Gold is found by distant supervision, as DPR does where a data set has no passages (Karpukhin et al. 2020, arXiv
2004.04906, section 4.2): the best of the first 100 passages that holds an answer, which it may do by chance. This and
the parameters of BM25 are our defaults: we do not know how the paper made its training contexts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.common.text import has_answer, tokens
from pipeline.data import jsonl, splits
from pipeline.data.jsonl import Lines, OfficialRecord, Reject, Some, Text
from pipeline.data.splits import SPLITS, OfficialFiles
from pipeline.runtime.errors import DataError
from pipeline.runtime.settings import GoldPosition

# Q questions, N passages of the collection

RANKED_FOR_GOLD = 100
QUESTIONS_PER_BLOCK = 64  # scored at once


class Passage(OfficialRecord):
    """One of a record's `ctxs`, or a line of a collection."""

    title: str = ""
    text: Text
    isgold: bool = False

    @cached_property
    def document_id(self) -> str:
        return f"nq-passage-{splits.digest(self.title, self.text)}"


def _one_context(passages: list[Passage]) -> list[Passage]:
    if len(passages) == 1 and not passages[0].isgold:
        raise ValueError("holds one passage, and it is not marked `isgold: true`")
    if len({passage.document_id for passage in passages}) < len(passages):
        raise ValueError("holds one passage twice")
    return passages


class NqRecord(OfficialRecord):
    """A line of Lost in the Middle: a question, its references and its passages in order."""

    question: Text
    answers: Some[Text]
    ctxs: Annotated[Some[Passage], AfterValidator(_one_context)]


class OpenQuestion(OfficialRecord):
    """A line of NQ-open: a question and its references."""

    question: Text
    answer: Some[Text]


class NqQuestion(NamedTuple):
    """A line of either kind."""

    place: str
    question_id: str
    text: str
    answers: Sequence[str]
    passages: Sequence[Passage]
    """A whole context, the gold passage alone, or none."""


def questions(lines: Lines, reject: Reject) -> Iterator[NqQuestion]:
    """Yield the questions of lines: a line with `ctxs` is a record of Lost in the Middle, any other one of NQ-open."""
    for line in lines:
        match line:
            case (_, {"ctxs": _}):
                for place, record in jsonl.parse([line], NqRecord, reject):
                    yield _question(place, record.question, record.answers, record.ctxs)
            case _:
                for place, asked in jsonl.parse([line], OpenQuestion, reject):
                    yield _question(place, asked.question, asked.answer, [])


class Survey(NamedTuple):
    """Facts about all files that are needed before the first context is built."""

    owner_of: dict[str, str]
    """The last of train, dev and test whose files ask a question, by question id."""
    test_texts: set[str]
    """Digests of the passages that the test files carry, by their words."""
    test_gold: list[Passage]
    """Gold passages of the test records without distractors, each once."""


def survey(files: OfficialFiles) -> Survey:
    """Read the files of all splits once."""
    owner_of: dict[str, str] = {}
    test_texts: set[str] = set()
    gold: dict[str, Passage] = {}
    for name in SPLITS:
        for question in questions(files.lines.get(name, ()), files.reject):
            owner_of[question.question_id] = name
            if name == "test":
                test_texts.update(map(text_digest, question.passages))
                if len(question.passages) == 1:
                    gold[question.passages[0].document_id] = question.passages[0]
    return Survey(owner_of, test_texts, list(gold.values()))


class PassageCollection:
    """Distinct passages, ranked by BM25 over lower-case words of title and text."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        from pipeline.retrieval import retrievers  # its import takes a second, and only the contexts we build need it

        self._passages = passages
        self._tokens = [f"{tokens(passage.title)}\n{tokens(passage.text)}" for passage in passages]
        texts = [retrievers.chunk_text(passage.title, passage.text, with_title=True) for passage in passages]
        self._bm25 = retrievers.Bm25Scorer(texts, k1=1.5, b=0.75)

    def scores(self, questions: Sequence[str]) -> NDArray[np.float32]:
        """Score every passage for every question: scores_QN."""
        return self._bm25.corpus_scores(questions)

    def gold(self, references: Sequence[str], scores_N: NDArray[np.float32]) -> Passage | None:
        """Find the best of the first passages whose text holds an answer; None: there is none."""
        wanted = _wanted(references)
        for index in islice(best_first(scores_N, RANKED_FOR_GOLD), RANKED_FOR_GOLD):
            text = self._tokens[index].partition("\n")[2]
            if any(answer in text for answer in wanted):
                return self._passages[index]
        return None

    def distractors(
        self, question: str, references: Sequence[str], gold: Passage, scores_N: NDArray[np.float32], count: int
    ) -> list[Passage]:
        """Find the `count` best passages that hold no answer and are not the gold text again, best first.

        Raises:
            DataError: there are fewer.
        """
        wanted = _wanted(references)
        taken = {tokens(gold.text)}
        chosen: list[Passage] = []
        for index in best_first(scores_N, RANKED_FOR_GOLD):
            if len(chosen) == count:
                break
            text = self._tokens[index].partition("\n")[2]
            if text not in taken and not any(answer in self._tokens[index] for answer in wanted):
                taken.add(text)
                chosen.append(self._passages[index])
        if len(chosen) < count:
            raise DataError(
                f"{question!r} needs {count} distractors, the collection has {len(chosen)} passages without an "
                "answer; lower data.num_documents, or name a larger collection in data.passages"
            )
        return chosen


def best_first(scores_N: NDArray[np.float32], num_likely: int) -> Iterator[int]:
    """Yield the places of the scores, best first, equal ones in order; sorts only `num_likely` until more are read."""
    split = max(len(scores_N) - num_likely, 0)
    likely_N = scores_N >= np.partition(scores_N, split)[split] if split else np.ones(len(scores_N), dtype=np.bool_)
    for part_N in (likely_N, ~likely_N):
        places = np.flatnonzero(part_N)
        yield from places[np.argsort(-scores_N[places], kind="stable")].tolist()


def position_of_gold(where: GoldPosition, num_documents: int, question: int, seed: int) -> int:
    """Place the gold passage, from 0; `spread` gives any `num_documents` questions in a row each place once."""
    if where == "spread":
        block, turn = divmod(question, num_documents)
        return int(np.random.default_rng([seed, num_documents, block]).permutation(num_documents)[turn])
    return {"first": 0, "middle": (num_documents - 1) // 2, "last": num_documents - 1}[where]


NqContext = tuple[str, NqQuestion, Sequence[int]]
"""Split, question over a whole context, and the places of its gold passages, from 0 (empty: unknown)."""


def benchmark(files: OfficialFiles, *, num_documents: Sequence[int], gold_position: GoldPosition) -> Benchmark:
    """Make an example for each record with a context and for each context we build; a passage is a document.

    For a question of test we build one context of every size in `num_documents`, for a question of train or dev only
    one, with the sizes by turn. The collection is the part "passages" of `files`. Of each split the first
    `max_questions` that have a gold passage are taken.

    `left_out` counts "questions asked in test", "questions asked in dev", "questions asked before" (a second time
    without a context), "questions without a gold passage" (none of the best passages holds an answer), and "passages of
    test records".

    Memory holds the collections, ids, and for each built context references to its passages.

    Raises:
        DataError: a question stands twice with the same number of documents and gold position, or there are too few
            passages to build a context from.
    """
    contexts = _Contexts(files, num_documents, gold_position)
    passages = (passage for _, question, _ in contexts for passage in question.passages)
    documents = (Document(passage.document_id, passage.title, passage.text, whole=True) for passage in passages)
    return Benchmark(splits.distinct(documents), _examples(contexts))


@dataclass(frozen=True)
class _Contexts:
    """All contexts in order; each iteration reads the questions anew and yields the same contexts."""

    files: OfficialFiles
    num_documents: Sequence[int]
    gold_position: GoldPosition
    chosen: dict[tuple[str, str], list[Passage]] = field(default_factory=dict)
    """Gold passage and distractors, best first, by split and place of a question without a context; no gold: none."""

    def __iter__(self) -> Iterator[NqContext]:
        counts: Counter[str] = Counter()
        number_of: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
        for name in SPLITS:
            asked = self._asked(name, number_of, counts)
            while block := list(islice(asked, QUESTIONS_PER_BLOCK)):
                self._choose(name, [question for _, question in block])
                for split, question in block:
                    if self._is_full(number_of[split], question):
                        continue
                    chosen = self.chosen.get((name, question.place))
                    if chosen == []:
                        counts["questions without a gold passage"] += 1
                        continue
                    number = number_of[split].setdefault(question.question_id, len(number_of[split]))
                    if chosen:
                        yield from self._built(split, question, number, chosen)
                    else:
                        gold = [place for place, passage in enumerate(question.passages) if passage.isgold]
                        yield split, question, gold
        for reason, number in counts.items():
            self.files.left_out[reason] = number  # every iteration counts the same

    def _asked(
        self, name: str, number_of: Mapping[str, Mapping[str, int]], counts: Counter[str]
    ) -> Iterator[tuple[str, NqQuestion]]:
        """Yield (split it goes to, question) for the files of split `name`, without what is left out or not needed."""
        seen: set[str] = set()
        for question in questions(self.files.lines.get(name, ()), self.files.reject):
            owner = self._survey.owner_of[question.question_id]
            split = self._held_out[question.question_id] if owner == "train" else owner
            if owner != name:
                counts[f"questions asked in {owner}"] += 1
            elif not question.passages and question.question_id in seen:
                counts["questions asked before"] += 1
            elif not self._is_full(number_of[split], question):
                yield split, question
            seen.add(question.question_id)

    def _is_full(self, numbers: Mapping[str, int], question: NqQuestion) -> bool:
        return question.question_id not in numbers and len(numbers) == self.files.max_questions

    def _choose(self, name: str, questions: Sequence[NqQuestion]) -> None:
        """Fill `chosen` for the questions that have no context."""
        for num_passages in (0, 1):
            waiting = [
                question
                for question in questions
                if len(question.passages) == num_passages and (name, question.place) not in self.chosen
            ]
            if waiting:
                collection = self._test_collection if num_passages and name == "test" else self._collection
                scores_QN = collection.scores([question.text for question in waiting])
                for question, scores_N in zip(waiting, scores_QN, strict=True):
                    gold = question.passages[0] if num_passages else collection.gold(question.answers, scores_N)
                    count = max(self.num_documents) - 1
                    self.chosen[name, question.place] = (
                        [gold, *collection.distractors(question.text, question.answers, gold, scores_N, count)]
                        if gold
                        else []
                    )

    def _built(self, split: str, question: NqQuestion, number: int, chosen: Sequence[Passage]) -> Iterator[NqContext]:
        gold, *distractors = chosen
        if not question.passages:
            # The first reference is trained on: one that the context holds.
            ordered = sorted(question.answers, key=lambda answer: not has_answer(gold.text, answer))
            question = question._replace(answers=ordered)
        sizes = [(size, number) for size in self.num_documents]
        if split != "test":
            turn, index = divmod(number, len(self.num_documents))
            sizes = [(self.num_documents[index], turn)]
        for size, turn in sizes:
            position = position_of_gold(self.gold_position, size, turn, self.files.seed)
            passages = [*distractors[:position], gold, *distractors[position : size - 1]]
            yield split, question._replace(passages=passages), [position]

    @cached_property
    def _survey(self) -> Survey:
        return survey(self.files)

    @cached_property
    def _held_out(self) -> dict[str, str]:
        return self.files.held_out(name for name, owner in self._survey.owner_of.items() if owner == "train")

    @cached_property
    def _test_collection(self) -> PassageCollection:
        return PassageCollection(self._survey.test_gold)

    @cached_property
    def _collection(self) -> PassageCollection:
        found = jsonl.parse(self.files.lines.get("passages", ()), Passage, self.files.reject)
        distinct = {passage.document_id: passage for _, passage in found}
        clean = [passage for passage in distinct.values() if text_digest(passage) not in self._survey.test_texts]
        self.files.left_out["passages of test records"] = len(distinct) - len(clean)
        if not clean:
            raise DataError(
                f"data.passages gives {len(distinct):,} passages, and none that is not in a test record; questions "
                "without a context need a collection of titled passages, name its files there"
            )
        return PassageCollection(clean)


def _examples(contexts: _Contexts) -> Iterator[Example]:
    place_of: dict[str, str] = {}
    for split, question, gold in contexts:
        passages = question.passages
        found = splits.example(
            "nq",
            split,
            question.question_id,
            question.text,
            question.answers,
            [passage.document_id for passage in passages],
            [Evidence(passages[position].document_id, 0, len(passages[position].text)) for position in gold],
            example_id=f"{question.question_id}-{len(passages)}-{gold[0] if gold else 'unknown'}",
        )
        what = f"{question.text!r} over {len(passages)} documents with gold position {found.gold_position}"
        jsonl.refuse_twice(place_of, question.place, what, found.example_id)
        yield found


def text_digest(passage: Passage) -> str:
    """Digest the words of the text, whatever their case, blanks and the encoding of accents."""
    return splits.digest(tokens(passage.text))


def _question(place: str, text: str, references: Sequence[str], passages: Sequence[Passage]) -> NqQuestion:
    words = " ".join(text.casefold().split()).rstrip("? ")
    return NqQuestion(place, f"nq-{splits.digest(words)}", text, references, passages)


def _wanted(references: Sequence[str]) -> list[str]:
    """Write each answer as its tokens, without answers that have no token."""
    return [found for found in map(tokens, references) if found.strip()]
