"""Rows of other question answering data sets, turned into a question of ours and the documents that it carries.

    SQuAD, nested or flat           context, answers with answer_start; where the answer stands is the evidence
    Hugging Face                    context, contexts, passages or paragraphs: a text, a list of texts, of objects or of
                                    (title, sentences), or an object of lists; MuSiQue, MS MARCO, HotpotQA, LongBench
    DPR, FiD, Lost in the Middle    positive_ctxs, hard_negative_ctxs and negative_ctxs; or ctxs
    RAFT                            context, oracle_context, cot_answer

A passage is gold where the row says so: by a mark, as one of positive_ctxs, as oracle_context, or by its title in
supporting_facts. Otherwise that is unknown. Positive passages come first in DPR's rows, so those contexts are put in
an order that tells nothing.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pipeline.common.tables import Document
from pipeline.data import splits
from pipeline.data.jsonl import Line, Lines, is_blank, shown

SHAPE = (
    '{"id": "q1", "question": "...", "answers": ["..."], "documents": [ids of documents.jsonl], "split": "train"}, or '
    'with its texts as "context": ["...", "..."] in place of documents'
)
"""What a row of ours must look like."""

_CONTEXTS = ("positive_ctxs", "ctxs", "context", "contexts", "passages", "paragraphs", "documents")
_NEGATIVES = ("hard_negative_ctxs", "negative_ctxs")
_IDS = ("id", "_id", "question_id", "qid", "query_id")
_QUESTIONS = ("question", "query", "input")
_ANSWERS = ("answers", "answer", "cot_answer")
_TEXTS = ("text", "paragraph_text", "passage_text", "context", "content", "contents", "sentences")
_MARKS = ("gold", "isgold", "is_gold", "is_supporting", "is_selected")
_FINAL_ANSWER = re.compile(r".*(?:<ANSWER>|##\s*Answer)\s*:?", re.DOTALL)
_QUOTE = re.compile(r"##begin_quote##(.*?)##end_quote##", re.DOTALL)


class CarriedPassage(NamedTuple):
    """A passage that stands in its question's row."""

    title: str
    text: str
    is_gold: bool

    @property
    def document_id(self) -> str:
        return f"passage-{splits.digest(self.title, self.text)}"


def unnested(rows: Lines) -> Iterator[Line]:
    """Yield the rows, and of SQuAD's files and other objects that wrap rows those that stand inside."""
    for outer, wrapper in rows:
        match wrapper:
            case {"data": [*items]} | {"rows": [*items]}:
                found = [(f"{outer}, row {number}", item) for number, item in enumerate(items, start=1)]
            case _:
                found = [(outer, wrapper)]
        for place, row in found:
            match row:
                case {"row": dict() as inner}:
                    yield place, inner
                case {"paragraphs": [{"qas": _}, *_] as paragraphs}:
                    for number, paragraph in enumerate(paragraphs, start=1):
                        of_all = {"title": row.get("title"), "context": _value(paragraph, "context")}
                        for asked, question in enumerate(_list(_value(paragraph, "qas")), start=1):
                            found_at = f"{place}, paragraph {number}, question {asked}"
                            yield found_at, {**question, **of_all} if isinstance(question, dict) else question
                case _:
                    yield place, row


def carries_texts(row: Any) -> bool:
    """Tell whether a question's row holds the texts of its context, and not the ids of documents."""
    if not isinstance(row, dict):
        return False
    documents = row.get("documents")
    texts = isinstance(documents, dict) or (isinstance(documents, list) and any(map(_is_nested, documents)))
    keys = [key for key in (*_CONTEXTS, *_NEGATIVES) if key != "documents" and key in row]
    return texts or any(row[key] is not None or documents is None for key in keys)


def ours(row: dict[str, Any]) -> tuple[dict[str, Any], list[Document]]:
    """Turn a row that carries its texts into one of ours and its documents; an unanswerable question has no answers.

    Raises:
        ValueError: passages, or the places of answers, cannot be told; the message says why.
    """
    if row.get("gold") is not None:
        raise ValueError("gold names documents, but this row carries texts; mark gold passages with `is_gold: true`")
    key = next((key for key in (*_CONTEXTS, *_NEGATIVES) if row.get(key) is not None), "")
    if not key:
        raise ValueError("the context is null; give its texts, or leave the row out")
    if key != "documents" and row.get("documents") is not None:
        raise ValueError(f"there are both documents and {key}; keep the one that is the context")
    question, passages, answers = _first(row, _QUESTIONS), _context(row, key), list(_answers(row))
    names = [passage.document_id for passage in passages]
    if "positive_ctxs" in row:
        names.sort(key=lambda document_id: splits.digest(str(question), document_id))
    name = _first(row, _IDS)
    converted: dict[str, Any] = {
        "id": f"question-{splits.digest(str(question), *names)}" if name is None else name,
        "question": question,
        "answers": _distinct(text for text, _ in answers),
        "documents": names,
        "gold": [passage.document_id for passage in passages if passage.is_gold],
        "evidence": _distinct(_evidence(row, passages, answers)),
        **{key: row[key] for key in ("split", "answer_lead") if key in row},
    }
    is_whole = len(passages) > 1
    return converted, [Document(found.document_id, found.title, found.text, is_whole) for found in passages]


def _context(row: dict[str, Any], key: str) -> list[CarriedPassage]:
    """Collect the passages below `key`, and DPR's negatives, each once."""
    oracle, facts = row.get("oracle_context"), row.get("supporting_facts")
    titles = _list(facts.get("title")) if isinstance(facts, dict) else [fact[0] for fact in _list(facts) if _list(fact)]
    gold: dict[tuple[str, str], bool] = {}
    for name in dict.fromkeys((key, *_NEGATIVES)):
        for title, text, is_marked in _passages(row.get(name)):
            title = "" if title == "placeholder_title" else title
            is_oracle = isinstance(oracle, str) and text.strip() == oracle.strip()
            if not is_blank(text):
                is_gold = is_marked or is_oracle or name == "positive_ctxs" or title in titles
                gold[title, text] = gold.get((title, text), False) or is_gold
    if not gold:
        raise ValueError(f"{key} holds no passage with text")
    found = [CarriedPassage(title, text, is_gold) for (title, text), is_gold in gold.items()]
    if len(found) == 1 and not found[0].title and isinstance(row.get("title"), str):
        found = [found[0]._replace(title=row["title"])]
    return found


def _passages(value: Any) -> Iterator[tuple[str, str, bool]]:
    """Yield title, text and mark of gold of the passages that a value holds, in whatever form."""
    match value:
        case None:
            return
        case str():
            yield "", value, False
        case [str() as title, [*sentences]]:
            yield from _passages({"title": title, "sentences": sentences})
        case list():
            for item in value:
                yield from _passages(item)
        case dict() if value and all(isinstance(column, list) for column in value.values()):
            for cells in _cells(value):
                yield from _passages(cells)
        case dict():
            text = _first(value, _TEXTS)
            if isinstance(text, list) and all(isinstance(sentence, str) for sentence in text):
                has_blanks = any(sentence[:1].isspace() or sentence[-1:].isspace() for sentence in text)
                text = ("" if has_blanks else " ").join(text)
            if not isinstance(text, str):
                raise ValueError(
                    f"a passage has no text (keys: {', '.join(list(value)[:8])}); give it as one of {', '.join(_TEXTS)}"
                )
            yield str(value.get("title") or ""), text, any(value.get(mark) in (True, 1) for mark in _MARKS)
        case _:
            raise ValueError(f"a passage is {shown(value)}; expected a text or an object with title and text")


def _answers(row: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each reference and the character of the context at which it stands (None: the row does not say)."""
    key = next((key for key in _ANSWERS if row.get(key) not in (None, "", [])), "")
    if not key or row.get("is_impossible") is True or row.get("answerable") is False:
        return
    value = row[key]
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        value = list(_cells(value))
    for item in [*(value if isinstance(value, list) else [value]), *_list(row.get("answer_aliases"))]:
        if isinstance(item, dict):
            yield item.get("text"), item.get("answer_start")
        else:
            if key == "cot_answer" and isinstance(item, str):
                item, num_found = _FINAL_ANSWER.subn("", item)
                if not num_found:
                    raise ValueError("cot_answer has no <ANSWER>: before its answer; add it, or give `answer`")
            yield item, row.get("answer_start")


def _evidence(
    row: dict[str, Any], passages: list[CarriedPassage], answers: list[tuple[Any, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the places where the row's answers stand, and those of RAFT's quotes that stand in a gold passage."""
    for text, start in answers:
        if isinstance(start, float) and start.is_integer():  # a column with gaps
            start = int(start)
        if start is not None and type(start) is not int:
            raise ValueError(f"answer_start is {shown(start)}: expected a whole number, or leave it out")
        if start is not None and isinstance(text, str):
            if len(passages) > 1:
                raise ValueError(f"answer_start counts in one context, but there are {len(passages)} passages")
            context = passages[0].text
            if start < 0 or not context.startswith(text, start):
                first = context.find(text)
                where = "nor anywhere in the context" if first < 0 else f"but first at {first}"
                raise ValueError(
                    f"the answer {shown(text)} is not at its answer_start {start}, {where}; answer_start counts "
                    "characters of the context from 0: correct it, or leave it out"
                )
            yield {"document": passages[0].document_id, "text": text, "start": start}
    for quote in map(str.strip, _QUOTE.findall(str(row.get("cot_answer")))):
        for passage in passages:
            if quote and passage.is_gold and quote in passage.text:
                yield {"document": passage.document_id, "text": quote}


def _cells(columns: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Turn an object of lists, as Hugging Face writes a list of objects, into these objects."""
    if len(set(map(len, columns.values()))) > 1:
        raise ValueError(f"the lists {', '.join(columns)} differ in length")
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _value(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _first(row: dict[str, Any], keys: Iterable[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
