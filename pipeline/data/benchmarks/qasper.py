"""Qasper v0.3: questions about whole papers (Dasigi et al. 2021, arXiv 2105.03011; allenai/qasper-led-baseline
@afd0fb96).

References and their types follow the official evaluator, scripts/evaluator.py. A paper's text is its section names and
paragraphs in the order of the authors' LED baseline, dataset_reader.py, with the abstract, which that baseline leaves
out, in front. The baseline also passes over papers without full text; ours have the abstract alone, so that the number
of questions is the official one. Nothing inside a paragraph is changed, evidence is found by its words. What is no text
("FLOAT SELECTED" stands for a figure or table), or is not in the paper's text, is passed over, so a question may have
less evidence than its annotators gave; with none its gold document counts as unknown, as that of an unanswerable one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.data import jsonl, splits
from pipeline.data.jsonl import Line, Lines, Reject, Text
from pipeline.runtime.errors import DataError

LOST = "questions without an answer"
_NO_TEXT = "FLOAT SELECTED"

Span = tuple[int, int]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Answer(_Part):
    """What one annotator answered."""

    unanswerable: bool
    extractive_spans: list[str]
    yes_no: bool | None
    free_form_answer: str
    evidence: list[str]

    @property
    def reference(self) -> tuple[str, str]:
        """Text and official type; both empty: the annotator gave no answer."""
        if self.unanswerable:
            return "Unanswerable", "none"
        if self.extractive_spans:
            return ", ".join(self.extractive_spans), "extractive"
        if self.free_form_answer:
            return self.free_form_answer, "abstractive"
        if self.yes_no is not None:
            return "Yes" if self.yes_no else "No", "boolean"
        return "", ""


class Annotation(_Part):
    """One of a question's `answers`."""

    answer: Answer


class Question(_Part):
    """One of a paper's `qas`."""

    question: Text
    question_id: Text
    answers: list[Annotation]


class Section(_Part):
    """One of a paper's `full_text`."""

    section_name: str | None
    paragraphs: list[str]


class Paper(_Part):
    """An entry of a file, its key as `paper_id`."""

    paper_id: Text
    title: str
    abstract: str | None
    full_text: list[Section]
    qas: list[Question]


def benchmark(
    files: Mapping[str, Lines],
    reject: Reject,
    *,
    left_out: Counter[str],
    dev_fraction: float,
    test_fraction: float,
    seed: int,
    max_questions: int | None,
) -> Benchmark:
    """Each paper with questions as one document, each question as one example; papers of train are held out whole.

    `files` gives the entries of each split as (place, (paper id, paper)). A paper that is none, and a question with an
    annotator's answer that says nothing, go to `reject`. A question without any answer (partial copies have them; the
    official evaluator stops at one) is counted in `left_out`, once however often the benchmark is iterated.

    Raises:
        DataError: a paper or a question id stands twice, in one split or in two.
    """
    papers = _Papers(files, reject, left_out, dev_fraction, test_fraction, seed, max_questions)
    return Benchmark(
        (document for document, examples in papers if examples),
        (example for _, examples in papers for example in examples),
    )


def layout(paper: Paper) -> tuple[str, dict[str, Span]]:
    """The paper's text, and where abstract, section names and paragraphs lie in it, by their words.

    Paragraphs stand between blank lines. A section's name is no paragraph of its own, so that no chunk ends with it.
    """
    pieces = [(paper.abstract or "", "\n\n")]
    for section in paper.full_text:
        pieces += [(section.section_name or "", "\n"), *((paragraph, "\n\n") for paragraph in section.paragraphs)]
    text: list[str] = []
    span_of: dict[str, Span] = {}
    end = 0
    for piece, separator in pieces:
        if piece.strip():
            span_of.setdefault(_words(piece), (end, end + len(piece)))
            text += [piece, separator]
            end += len(piece) + len(separator)
    return "".join(text[:-1]), span_of


class _Papers:
    """Every paper as a document, and its examples; each iteration reads the files anew and gives the same."""

    def __init__(
        self,
        files: Mapping[str, Lines],
        reject: Reject,
        left_out: Counter[str],
        dev_fraction: float,
        test_fraction: float,
        seed: int,
        max_questions: int | None,
    ) -> None:
        self._files, self._reject, self._left_out = files, reject, left_out
        self._dev_fraction, self._test_fraction, self._seed = dev_fraction, test_fraction, seed
        self._max_questions = max_questions

    def __iter__(self) -> Iterator[tuple[Document, list[Example]]]:
        place_of: dict[tuple[str, str], str] = {}
        num_taken: Counter[str] = Counter()
        num_lost = 0
        for name in ("train", "dev", "test"):
            for place, paper in self._parsed(name):
                _refuse_twice(place_of, place, "paper", paper.paper_id)
                for question in paper.qas:
                    _refuse_twice(place_of, place, "question", question.question_id)
                split = self._held_out[paper.paper_id] if name == "train" else name
                text, span_of = layout(paper)
                examples = []
                for question in paper.qas:
                    problem = _problem(question)
                    if not question.answers:
                        num_lost += 1
                    elif problem:
                        self._reject(f"{place}, question {question.question_id}", problem)
                    elif self._max_questions is None or num_taken[split] < self._max_questions:
                        num_taken[split] += 1
                        examples.append(_example(question, paper.paper_id, split, text, span_of))
                yield Document(paper.paper_id, paper.title, text), examples
        if num_lost:
            self._left_out[LOST] = num_lost

    @cached_property
    def _held_out(self) -> dict[str, str]:
        names = [paper.paper_id for _, paper in self._parsed("train")]
        return splits.held_out(
            names, dev_fraction=self._dev_fraction, test_fraction=self._test_fraction, seed=self._seed
        )

    def _parsed(self, name: str) -> Iterator[tuple[str, Paper]]:
        for place, paper in jsonl.parse(_objects(self._files.get(name, ())), Paper, self._reject):
            if layout(paper)[0]:
                yield place, paper
            else:
                self._reject(place, "there is no text, neither in abstract nor in full_text")


def _objects(entries: Lines) -> Iterator[Line]:
    for place, entry in entries:
        match entry:
            case (str() as paper_id, dict() as paper):
                yield place, {**paper, "paper_id": paper_id}
            case _:
                yield place, entry


def _refuse_twice(place_of: dict[tuple[str, str], str], place: str, kind: str, identifier: str) -> None:
    if (kind, identifier) in place_of:
        raise DataError(
            f"{place}: {kind} {identifier!r} already stands in {place_of[kind, identifier]}; keep one of them"
        )
    place_of[kind, identifier] = place


def _problem(question: Question) -> str:
    """Why nothing can be learnt or scored from this question; empty: no reason."""
    for number, annotation in enumerate(question.answers, start=1):
        text, kind = annotation.answer.reference
        if not kind:
            return f"answer {number} is neither unanswerable nor has it spans, a free form, or a yes or no"
        if not text.strip():
            return f"answer {number} is {kind}, but its text is empty"
    return ""


def _example(question: Question, paper_id: str, split: str, text: str, span_of: Mapping[str, Span]) -> Example:
    answers = [annotation.answer for annotation in question.answers]
    # The official evaluator takes no evidence from an annotator who found no answer.
    quotes = (quote for answer in answers if not answer.unanswerable for quote in answer.evidence)
    evidence = [Evidence(paper_id, start, end) for start, end in _spans(quotes, text, span_of)]
    return Example(
        example_id=question.question_id,
        question_id=question.question_id,
        benchmark="qasper",
        split=split,
        question=question.question,
        answer_lead="",
        answers=[answer.reference[0] for answer in answers],
        document_ids=[paper_id],
        gold_document_ids=[paper_id] if evidence else [],
        evidence=evidence,
        gold_position=0 if evidence else -1,
        answer_types=[answer.reference[1] for answer in answers],
    )


def _spans(quotes: Iterable[str], text: str, span_of: Mapping[str, Span]) -> list[Span]:
    """Where the quotes lie, each place once, in the order of the text; a piece of the paper, or words inside one."""
    found = set()
    for quote in quotes:
        words = _words(quote)
        if not words or _NO_TEXT in words:
            continue
        if words in span_of:
            found.add(span_of[words])
        elif (start := text.find(quote.strip())) >= 0:
            found.add((start, start + len(quote.strip())))
    return sorted(found)


def _words(text: str) -> str:
    return " ".join(text.split())
