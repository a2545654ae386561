"""Questions that each have one passage of their own: nq-oracle and SQuAD. Their contexts are built here.

    nq-oracle   Natural Questions with the annotated passage alone, lines of Lost in the Middle (Liu et al. 2023, arXiv
                2307.03172; nelson-liu/lost-in-the-middle @29b8a6d0, qa_data/nq-open-oracle.jsonl.gz)
    squad       SQuAD v1.1 and v2.0, and files of the same form such as XQuAD (Rajpurkar et al. 2016, arXiv 1606.05250,
                and 2018, arXiv 1806.03822); an unanswerable question of v2.0 has "unanswerable" as its answer

Passages of one article, by its title, go to one split, and a context holds passages of its split alone. The distractors
of a question are the passages that a retriever ranks best for it and that hold none of its answers; for squad those of
its own article come first. References that stand in the passage come first, because the first one is trained on.

With `share_contexts` a context is asked every question of all its passages, so that its computation is shared. It grows
around one passage, always by the passage in no context yet that the retriever ranks best for all questions so far, and
only if no question is answered outside its own passage. The last contexts of a split are filled with passages that have
been asked about in another. Passages are shuffled, so each place holds the gold passage about equally often.
"""

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.common.text import has_answer, tokens
from pipeline.data import jsonl, splits
from pipeline.data.benchmarks.nq import NqRecord, position_of_gold
from pipeline.data.jsonl import OfficialRecord, Some, Text
from pipeline.data.splits import SPLITS, OfficialFiles
from pipeline.runtime.errors import DataError

UNANSWERABLE = "unanswerable"

# Q questions, P passages of one split


class PassageQuestion(NamedTuple):
    """A question about a passage."""

    place: str
    question_id: str
    text: str
    answers: list[str]
    """Those that stand in the passage first; empty: the passage does not answer the question."""


class AskedPassage(NamedTuple):
    """A passage and the questions about it."""

    document: Document
    questions: list[PassageQuestion]


ReadPassages = Callable[[OfficialFiles], Iterator[tuple[str, AskedPassage]]]
"""A reader: yields (split of the file, passage), train first; a passage may come several times."""

RankPassages = Callable[[Sequence[Document], Sequence[str]], Callable[[Sequence[str]], NDArray[np.float32]]]
"""Takes P passages and all questions; returns what scores Q of these questions: scores_QP, the higher the better."""


class SquadAnswer(OfficialRecord):
    """One of a question's `answers`."""

    text: Text


class SquadQuestion(OfficialRecord):
    """One of a paragraph's `qas`."""

    id: Text
    question: Text
    answers: list[SquadAnswer]
    is_impossible: bool = False


class SquadParagraph(OfficialRecord):
    """One of an article's `paragraphs`."""

    context: Text
    qas: list[SquadQuestion]


class SquadArticle(OfficialRecord):
    """One of the file's `data`."""

    title: str
    paragraphs: Some[SquadParagraph]


def read_nq_oracle(files: OfficialFiles) -> Iterator[tuple[str, AskedPassage]]:
    """Yield the passage of every line. A line with several passages, or whose passage holds no answer, is rejected."""
    for split, place, record in files.parse(NqRecord):
        passage = record.ctxs[0]
        answers = _ordered(record.answers, passage.text)
        if len(record.ctxs) > 1:
            files.reject(
                place, f"holds {len(record.ctxs)} passages; this benchmark builds its contexts, so one belongs"
            )
        elif not has_answer(passage.text, answers[0]):
            files.reject(place, f"no answer stands in the passage, the first one is {record.answers[0]!r}")
        else:
            question_id = f"nq-{splits.digest(' '.join(record.question.casefold().split()))}"
            asked = PassageQuestion(place, question_id, record.question, answers)
            yield split, AskedPassage(_document(passage.title, passage.text), [asked])


def read_squad(files: OfficialFiles) -> Iterator[tuple[str, AskedPassage]]:
    """Yield every paragraph. A question without an answer that is not marked `is_impossible` is rejected."""
    for split in SPLITS:
        articles = (
            (f"{place}, article {number}", article)
            for place, entry in files.lines.get(split, ())
            for number, article in enumerate(_articles(place, entry, files), start=1)
        )
        for place, article in jsonl.parse(articles, SquadArticle, files.reject):
            for paragraph in article.paragraphs:
                asked = []
                for question in paragraph.qas:
                    where = f"{place}, question {question.id}"
                    answers = [] if question.is_impossible else [answer.text for answer in question.answers]
                    if not answers and not question.is_impossible:
                        files.reject(where, "answers is empty, and is_impossible is not true")
                        continue
                    answers = _ordered(dict.fromkeys(answers), paragraph.context)
                    asked.append(PassageQuestion(where, question.id, question.question.strip(), answers))
                if asked:
                    yield split, AskedPassage(_document(article.title, paragraph.context), asked)


def _articles(place: str, entry: object, files: OfficialFiles) -> list[object]:
    """Take the articles out of the one object that a file holds."""
    match entry:
        case {"data": list() as articles}:
            return articles
    files.reject(place, 'is no SQuAD file; expected {"data": [{"title": ..., "paragraphs": [...]}, ...]}')
    return []


def _document(title: str, text: str) -> Document:
    return Document(f"passage-{splits.digest(title, text)}", title, text, whole=True)


def _ordered(answers: Iterable[str], text: str) -> list[str]:
    return sorted(answers, key=lambda answer: not has_answer(text, answer))


def benchmark(
    read: ReadPassages,
    name: str,
    files: OfficialFiles,
    *,
    num_documents: Mapping[str, Sequence[int]],
    share_contexts: bool,
    same_article_first: bool,
    rank: RankPassages,
) -> Benchmark:
    """Build a context of every size in `num_documents` of its split for each question; a passage is a document.

    `max_questions` takes the first questions of each split, in the order of the files. Memory holds all passages.

    Raises:
        DataError: a question stands twice, or a split has too few passages for its contexts.
    """
    by_split = _split(read, files)
    passages = (found.document for asked in by_split.values() for found in asked)

    def examples() -> Iterator[Example]:
        for split, asked in by_split.items():
            pool = _Pool(split, asked, same_article_first, rank, files.seed)
            for size in num_documents[split]:
                if len(asked) < size:
                    raise DataError(
                        f"a context of {size} documents is wanted, and split {split} has {len(asked)} passages; lower "
                        f"data.{split}_documents, or give {split} more questions"
                    )
                contexts = pool.shared(size) if share_contexts else pool.own(size)
                for question, gold, documents in contexts:
                    yield _example(name, split, question, gold, documents)

    return Benchmark(passages, examples())


def _split(read: ReadPassages, files: OfficialFiles) -> dict[str, list[AskedPassage]]:
    """Collect the passages of each split, each once with all its questions."""
    found = list(read(files))
    split_of = files.held_out(_article(passage) for split, passage in found if split == "train")
    place_of: dict[str, str] = {}
    by_split: dict[str, dict[str, AskedPassage]] = {split: {} for split in SPLITS}
    num_taken = dict.fromkeys(SPLITS, 0)
    for file_split, passage in found:
        split = split_of[_article(passage)] if file_split == "train" else file_split
        for question in passage.questions:
            jsonl.refuse_twice(place_of, question.place, f"question {question.question_id!r}")
            if num_taken[split] != files.max_questions:
                num_taken[split] += 1
                known = by_split[split].setdefault(tokens(passage.document.text), AskedPassage(passage.document, []))
                known.questions.append(question)
    return {split: list(passages.values()) for split, passages in by_split.items() if passages}


def _article(passage: AskedPassage) -> str:
    """Name the article: its title, or the passage itself where there is none."""
    return passage.document.title or passage.document.document_id


BuiltContext = tuple[PassageQuestion, Document, list[Document]]
"""A question, its gold passage, and the passages of its context in order."""


class _Pool:
    """The passages of one split, and the scores by which a context takes them."""

    def __init__(
        self, split: str, asked: Sequence[AskedPassage], same_article_first: bool, rank: RankPassages, seed: int
    ) -> None:
        self._split, self._asked, self._same_article_first, self._seed = split, asked, same_article_first, seed
        texts = [question.text for passage in asked for question in passage.questions]
        self._scores_of = rank([passage.document for passage in asked], texts)

    def own(self, size: int) -> Iterator[BuiltContext]:
        """Build a context for each question, its gold passage at each place equally often."""
        number = 0
        for place, (gold, questions) in enumerate(self._asked):
            for question in questions:
                _, *others = self._grown(size, place, [question], ())
                position = position_of_gold("spread", size, number, self._seed)
                documents = [self._asked[other].document for other in others]
                yield question, gold, [*documents[:position], gold, *documents[position:]]
                number += 1

    def shared(self, size: int) -> Iterator[BuiltContext]:
        """Put every passage in one context, and ask each context all questions of the passages that it is for."""
        waiting = dict.fromkeys(sorted(range(len(self._asked)), key=lambda place: self._draw(size, place)))
        while waiting:
            first = next(iter(waiting))
            chosen = self._grown(size, first, self._asked[first].questions, waiting)
            chosen.sort(key=lambda place: self._draw(size, first, place))
            documents = [self._asked[place].document for place in chosen]
            for place in chosen:
                if place in waiting:
                    del waiting[place]
                    for question in self._asked[place].questions:
                        yield question, self._asked[place].document, documents

    def _grown(self, size: int, first: int, questions: Sequence[PassageQuestion], waiting: Container[int]) -> list[int]:
        """Choose passages, best first by their mean score for the context's questions, that answer none of these.

        Args:
            questions: asked about passage `first`.
            waiting: places of passages in no context yet. They are preferred, and their questions are asked as well.
        """
        chosen, asked = [first], list(questions)
        left = set(range(len(self._asked))) - {first}
        title = self._asked[first].document.title
        is_other_article_P = [self._same_article_first and found.document.title != title for found in self._asked]
        is_placed_P = [place not in waiting for place in range(len(self._asked))]
        total_P = self._scores_of([questions[0].text])[0]
        while len(chosen) < size:
            for place in np.lexsort((-total_P, is_placed_P, is_other_article_P)).tolist():
                if place not in left:
                    continue
                left.remove(place)  # a passage that does not fit now will not fit later
                mine = self._asked[place].questions if place in waiting else []
                texts = [self._asked[other].document.text for other in chosen]
                if not (_answered(asked, [self._asked[place].document.text]) or _answered(mine, texts)):
                    break
            else:
                raise DataError(
                    f"split {self._split} has {len(chosen)} passages that fit into the context of "
                    f"{questions[0].text!r} (the others hold an answer), and {size} are wanted; lower "
                    f"data.{self._split}_documents"
                )
            chosen.append(place)
            if mine:
                asked += mine
                total_P = total_P + self._scores_of([mine[0].text])[0]
        return chosen

    def _draw(self, *numbers: int) -> bytes:
        return hashlib.sha256(" ".join(map(str, (self._seed, *numbers))).encode()).digest()


def _answered(questions: Iterable[PassageQuestion], texts: Sequence[str]) -> bool:
    return any(has_answer(text, answer) for asked in questions for answer in asked.answers for text in texts)


def _example(
    benchmark: str, split: str, question: PassageQuestion, gold: Document, documents: Sequence[Document]
) -> Example:
    return splits.example(
        benchmark,
        split,
        question.question_id,
        question.text,
        question.answers or [UNANSWERABLE],
        [document.document_id for document in documents],
        [Evidence(gold.document_id, 0, len(gold.text))] if question.answers else [],
        example_id=f"{question.question_id}-{len(documents)}",
    )
