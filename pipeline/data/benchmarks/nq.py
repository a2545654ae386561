"""Natural Questions with distractors: lines of Lost in the Middle (Liu et al. 2023, arXiv 2307.03172; its qa_data,
nelson-liu/lost-in-the-middle @29b8a6d0) and of NQ-open (google-research-datasets/natural-questions @fb26a307, nq_open).

Records that carry a context of several passages are taken as they are. Around a test record with its gold passage alone
(nq-open-oracle) we build contexts: the passages of the other such records that BM25 ranks best for the question,
without any that holds an answer, as the authors' distractors hold none. Theirs come from all of Wikipedia, ours from
the gold passages of the same files: figures on our contexts are not comparable with the paper's. Every other question
without a context, so all of NQ-open.train, gets gold passage and distractors out of `passages` (nq_contexts.py).

A question stays in the last of train, dev and test whose files ask it, whatever its case, blanks and final question
mark: Lost in the Middle's are NQ's own development side, never to be trained on. A passage whose words are those of a
passage of the test files is left out of `passages`. Questions held out from train share the collection with it, and
records of train with a context keep theirs: the census counts the documents that train has in common with dev or test.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.common.text import has_answer
from pipeline.data import jsonl, splits
from pipeline.data.benchmarks import nq_lines
from pipeline.data.benchmarks.nq_contexts import Collection, GoldPosition, position_of_gold
from pipeline.data.benchmarks.nq_lines import SPLITS, Passage, Question, Survey, text_digest
from pipeline.data.jsonl import Lines, Reject
from pipeline.runtime.errors import DataError

QUESTIONS_PER_BLOCK = 64  # scored at once


class Context(NamedTuple):
    """A question over passages in order; `gold` are the places of its gold passages, from 0, empty if unknown."""

    split: str
    question: Question
    passages: Sequence[Passage]
    gold: Sequence[int]


def benchmark(
    files: Mapping[str, Lines],
    passages: Lines,
    reject: Reject,
    *,
    seed: int,
    dev_fraction: float,
    test_fraction: float,
    num_documents: Sequence[int],
    gold_position: GoldPosition,
    max_questions: int | None,
    left_out: Counter[str],
) -> Benchmark:
    """Every passage of a context once, and an example for each record with a context and each context we build.

    We build one of every size in `num_documents` for a question of test, and one for a question of train or dev, with
    the sizes by turn. `files` gives the lines of each split; questions of train are held out as dev or test. Of each
    split the first `max_questions` that have a gold passage are taken.

    What is no error and yet not taken is counted in `left_out`, once however often the benchmark is iterated: lines by
    "questions asked in test", "questions asked in dev", "questions asked before" (a second time without a context) and
    "questions without a gold passage" (none of the best passages holds an answer), passages by "passages of test
    records".

    Memory holds the collections, ids, and for each built context references to its passages.

    Raises:
        DataError: a question stands twice with the same number of documents and gold position, or there are too few
            passages to build a context from.
    """
    contexts = _Contexts(
        files,
        passages,
        reject,
        seed,
        dev_fraction,
        test_fraction,
        num_documents,
        gold_position,
        max_questions,
        left_out,
    )
    return Benchmark(_documents(contexts), _examples(contexts))


@dataclass(frozen=True)
class _Contexts:
    """All contexts in order; each iteration reads the questions anew and gives the same."""

    files: Mapping[str, Lines]
    passages: Lines
    reject: Reject
    seed: int
    dev_fraction: float
    test_fraction: float
    num_documents: Sequence[int]
    gold_position: GoldPosition
    max_questions: int | None
    left_out: Counter[str]
    chosen: dict[tuple[str, str], list[Passage]] = field(default_factory=dict)
    """Gold passage and distractors, best first, by split and place of a question without a context; no gold: none."""

    def __iter__(self) -> Iterator[Context]:
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
                        yield Context(split, question, question.passages, gold)
        # Every iteration counts the same.
        for reason, number in counts.items():
            self.left_out[reason] = number

    def _asked(
        self, name: str, number_of: Mapping[str, Mapping[str, int]], counts: Counter[str]
    ) -> Iterator[tuple[str, Question]]:
        """The questions of a split's files with the split they go to, without what is left out or not needed."""
        seen: set[str] = set()
        for question in self._parsed(name):
            owner = self._survey.owner_of[question.question_id]
            split = self._held_out[question.question_id] if owner == "train" else owner
            if owner != name:
                counts[f"questions asked in {owner}"] += 1
            elif not question.passages and question.question_id in seen:
                counts["questions asked before"] += 1
            elif not self._is_full(number_of[split], question):
                yield split, question
            seen.add(question.question_id)

    def _is_full(self, numbers: Mapping[str, int], question: Question) -> bool:
        return question.question_id not in numbers and len(numbers) == self.max_questions

    def _choose(self, name: str, questions: Sequence[Question]) -> None:
        """Fill `chosen` for those of the questions that have no context."""
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

    def _built(self, split: str, question: Question, number: int, chosen: Sequence[Passage]) -> Iterator[Context]:
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
            position = position_of_gold(self.gold_position, size, turn, self.seed)
            yield Context(
                split, question, [*distractors[:position], gold, *distractors[position : size - 1]], [position]
            )

    @cached_property
    def _survey(self) -> Survey:
        return nq_lines.survey(self.files, self.reject)

    @cached_property
    def _held_out(self) -> dict[str, str]:
        names = [question_id for question_id, owner in self._survey.owner_of.items() if owner == "train"]
        return splits.held_out(names, dev_fraction=self.dev_fraction, test_fraction=self.test_fraction, seed=self.seed)

    @cached_property
    def _test_collection(self) -> Collection:
        return Collection(self._survey.test_gold)

    @cached_property
    def _collection(self) -> Collection:
        distinct = {passage.document_id: passage for _, passage in jsonl.parse(self.passages, Passage, self.reject)}
        clean = [passage for passage in distinct.values() if text_digest(passage) not in self._survey.test_texts]
        self.left_out["passages of test records"] = len(distinct) - len(clean)
        if not clean:
            raise DataError(
                f"data.passages gives {len(distinct):,} passages, and none that is not in a test record; questions "
                "without a context need a collection of titled passages, name its files there"
            )
        return Collection(clean)

    def _parsed(self, name: str) -> Iterator[Question]:
        return nq_lines.questions(self.files.get(name, ()), self.reject)


def _documents(contexts: _Contexts) -> Iterator[Document]:
    seen: set[str] = set()
    for context in contexts:
        for passage in context.passages:
            if passage.document_id not in seen:
                seen.add(passage.document_id)
                yield Document(passage.document_id, passage.title, passage.text, whole=True)


def _examples(contexts: _Contexts) -> Iterator[Example]:
    place_of: dict[str, str] = {}
    for split, question, passages, gold in contexts:
        gold_position = gold[0] if gold else -1
        example_id = f"{question.question_id}-{len(passages)}-{gold_position if gold else 'unknown'}"
        if example_id in place_of:
            raise DataError(
                f"{question.place}: {question.text!r} over {len(passages)} documents with gold position "
                f"{gold_position} already stands in {place_of[example_id]}; keep one of them"
            )
        place_of[example_id] = question.place
        yield Example(
            example_id=example_id,
            question_id=question.question_id,
            benchmark="nq",
            split=split,
            question=question.text,
            answer_lead="",
            answers=list(question.answers),
            document_ids=[passage.document_id for passage in passages],
            gold_document_ids=[passages[position].document_id for position in gold],
            evidence=[Evidence(passages[position].document_id, 0, len(passages[position].text)) for position in gold],
            gold_position=gold_position,
        )
