"""Qasper v0.3: questions about whole papers (Dasigi et al. 2021, arXiv 2105.03011; allenai/qasper-led-baseline
@afd0fb96).

References and their types follow the official evaluator, scripts/evaluator.py. A paper's text is its section names and
paragraphs in the order of the authors' LED baseline, dataset_reader.py, with the abstract, which that baseline leaves
out, in front. The baseline also passes over papers without full text; ours have the abstract alone, so that the number
of questions is the official one. Nothing inside a paragraph is changed, evidence is found by its words. What is no text
("FLOAT SELECTED" stands for a figure or table), or is not in the paper's text, is passed over, so a question may have
less evidence than its annotators gave; with none its gold document counts as unknown, as that of an unanswerable one.
"""

from collections.abc import Iterable, Iterator, Mapping

from pipeline.common.tables import Document, Evidence, Example
from pipeline.data import jsonl, splits
from pipeline.data.jsonl import Line, Lines, OfficialRecord, Text
from pipeline.data.splits import SPLITS, Group, OfficialFiles

LOST = "questions without an answer"
_NO_TEXT = "FLOAT SELECTED"


class QasperAnswer(OfficialRecord):
    """The answer of one annotator."""

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


class Annotation(OfficialRecord):
    """One of a question's `answers`."""

    answer: QasperAnswer


class QasperQuestion(OfficialRecord):
    """One of a paper's `qas`."""

    question: Text
    question_id: Text
    answers: list[Annotation]


class QasperSection(OfficialRecord):
    """One of a paper's `full_text`."""

    section_name: str | None
    paragraphs: list[str]


class Paper(OfficialRecord):
    """An entry of a file, its key as `paper_id`."""

    paper_id: Text
    title: str
    abstract: str | None
    full_text: list[QasperSection]
    qas: list[QasperQuestion]


def read(files: OfficialFiles) -> Iterator[Group]:
    """Yield each paper and its questions; papers of train are held out whole.

    A paper without text, and a question with an annotator's answer that is empty, go to `reject`. A question without
    any answer (partial copies have them; the official evaluator stops at one) is counted in `left_out`.

    Raises:
        DataError: a paper or a question id stands twice, in one split or in two.
    """
    place_of: dict[str, str] = {}
    num_lost = 0
    for split in SPLITS:
        for place, paper in jsonl.parse(with_paper_ids(files.lines.get(split, ())), Paper, files.reject):
            text, span_of = layout(paper)
            if not text:
                files.reject(place, "there is no text, neither in abstract nor in full_text")
                continue
            jsonl.refuse_twice(place_of, place, f"paper {paper.paper_id!r}")
            examples = []
            for question in paper.qas:
                jsonl.refuse_twice(place_of, place, f"question {question.question_id!r}")
                if not question.answers:
                    num_lost += 1
                elif problem := _problem(question):
                    files.reject(f"{place}, question {question.question_id}", problem)
                else:
                    examples.append(_example(question, paper.paper_id, split, text, span_of))
            yield Group(split, place, paper.paper_id, [Document(paper.paper_id, paper.title, text)], examples)
    if num_lost:
        files.left_out[LOST] = num_lost


def layout(paper: Paper) -> tuple[str, dict[str, tuple[int, int]]]:
    """Lay out the paper's text; also locate abstract, section names and paragraphs in it, by their words.

    Paragraphs stand between blank lines. A section's name is no paragraph of its own, so that no chunk ends with it.
    """
    pieces = [(paper.abstract or "", "\n\n")]
    for section in paper.full_text:
        pieces += [(section.section_name or "", "\n"), *((paragraph, "\n\n") for paragraph in section.paragraphs)]
    text: list[str] = []
    span_of: dict[str, tuple[int, int]] = {}
    end = 0
    for piece, separator in pieces:
        if piece.strip():
            span_of.setdefault(_words(piece), (end, end + len(piece)))
            text += [piece, separator]
            end += len(piece) + len(separator)
    return "".join(text[:-1]), span_of


def with_paper_ids(rows: Lines) -> Iterator[Line]:
    """Turn each object of papers by their ids into papers that hold the id as `paper_id`."""
    for place, papers in rows:
        if not isinstance(papers, dict):
            yield place, papers
            continue
        for paper_id, paper in papers.items():
            yield f"{place}, paper {paper_id}", {**paper, "paper_id": paper_id} if isinstance(paper, dict) else paper


def _problem(question: QasperQuestion) -> str:
    """Tell why nothing can be learnt or scored from the question; empty: no reason."""
    for number, annotation in enumerate(question.answers, start=1):
        text, kind = annotation.answer.reference
        if not kind:
            return f"answer {number} is neither unanswerable nor has it spans, a free form, or a yes or no"
        if not text.strip():
            return f"answer {number} is {kind}, but its text is empty"
    return ""


def _example(
    question: QasperQuestion, paper_id: str, split: str, text: str, span_of: Mapping[str, tuple[int, int]]
) -> Example:
    answers = [annotation.answer for annotation in question.answers]
    # The official evaluator takes no evidence from an annotator who found no answer.
    quotes = (quote for answer in answers if not answer.unanswerable for quote in answer.evidence)
    evidence = [Evidence(paper_id, start, end) for start, end in _spans(quotes, text, span_of)]
    references = [answer.reference for answer in answers]
    return splits.example(
        "qasper",
        split,
        question.question_id,
        question.question,
        [text for text, _ in references],
        [paper_id],
        evidence,
        answer_types=[kind for _, kind in references],
    )


def _spans(quotes: Iterable[str], text: str, span_of: Mapping[str, tuple[int, int]]) -> list[tuple[int, int]]:
    """Locate the quotes, each place once, in the order of the text: a piece of the paper, or words inside one."""
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
