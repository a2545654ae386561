"""The user's own format: every rule of it, kept and broken."""

import pytest

from pipeline.common.tables import Document, Evidence
from pipeline.data.benchmarks import own_jsonl
from pipeline.runtime.errors import DataError

DOCUMENTS = [
    {"id": "fox", "title": "Fox", "text": "The fox is red. The fox eats mice."},
    {"id": "hen", "text": "Hens lay eggs.", "whole": True},
]
QUESTION = {
    "id": "q1",
    "question": "What does the fox eat?",
    "answers": ["mice", "Mice."],
    "documents": ["hen", "fox"],
    "split": "test",
}


def placed(objects, name):
    return [(f"{name}, line {number}", value) for number, value in enumerate(objects, start=1)]


def prepare(documents, questions):
    """All documents, all examples, all rejects."""
    rejects = {}
    found = own_jsonl.benchmark(placed(documents, "documents"), placed(questions, "questions"), rejects.setdefault)
    return list(found.documents), list(found.examples), rejects


def only_reject(documents, questions):
    rejects = prepare(documents, questions)[2]
    assert len(rejects) == 1
    return next(iter(rejects.items()))


def test_documents_keep_title_text_and_whole():
    assert prepare(DOCUMENTS, [])[0] == [
        Document("fox", "Fox", "The fox is red. The fox eats mice.", whole=False),
        Document("hen", "", "Hens lay eggs.", whole=True),
    ]


def test_a_question_without_gold_or_evidence():
    _, [example], rejects = prepare(DOCUMENTS, [QUESTION])
    assert (example.example_id, example.question_id, example.benchmark) == ("q1", "q1", "jsonl")
    assert (example.split, example.answer_lead, example.answers) == ("test", "", ["mice", "Mice."])
    assert example.document_ids == ["hen", "fox"]
    assert (example.gold_document_ids, example.evidence, example.gold_position) == ([], [], -1)
    assert rejects == {}


def test_evidence_is_found_by_its_words_and_names_the_gold_document():
    quote = {"document": "fox", "text": "The fox eats"}
    _, [example], _ = prepare(DOCUMENTS, [{**QUESTION, "evidence": [quote], "answer_lead": "It eats"}])
    assert example.evidence == [Evidence("fox", 16, 28)]
    assert (example.gold_document_ids, example.gold_position, example.answer_lead) == (["fox"], 1, "It eats")


def test_a_gold_document_without_quotes_is_evidence_from_end_to_end():
    quote = {"document": "fox", "text": "mice"}
    _, [example], _ = prepare(DOCUMENTS, [{**QUESTION, "gold": ["fox", "hen"], "evidence": [quote]}])
    assert example.gold_document_ids == ["hen", "fox"]
    assert sorted(example.evidence, key=str) == [Evidence("fox", 29, 33), Evidence("hen", 0, 14)]
    assert example.gold_position == 0


def test_documents_may_come_in_any_order_and_in_many_contexts():
    questions = [{**QUESTION, "id": name, "evidence": [{"document": "fox", "text": "red"}]} for name in ("a", "b")]
    _, examples, rejects = prepare(DOCUMENTS[::-1], questions)
    assert [example.evidence for example in examples] == [[Evidence("fox", 11, 14)]] * 2
    assert rejects == {}


def test_a_question_without_answers_is_one_of_split_unlabelled():
    _, [example], rejects = prepare(DOCUMENTS, [{**QUESTION, "answers": [], "split": "unlabelled"}])
    assert (example.split, example.answers) == ("unlabelled", [])
    assert rejects == {}


def without(key):
    return {name: value for name, value in QUESTION.items() if name != key}


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (without("split"), "split is missing"),
        ({**without("answers"), "answer": "mice"}, "answers is missing (rename answer?)"),
        ({**QUESTION, "golds": ["fox"]}, "golds is not a key of this file (did you mean gold?)"),
        ({**QUESTION, "colour": "red"}, "colour is not a key of this file; keys of your own open with an underscore"),
        ({**QUESTION, "split": "valid"}, "split is 'valid': input should be 'train', 'unlabelled', 'dev' or 'test'"),
        ({**QUESTION, "answers": []}, "answers must not be an empty list in split test; split unlabelled is for"),
        ({**QUESTION, "split": "unlabelled"}, "answers must be an empty list in split unlabelled; a question with"),
        ({**QUESTION, "answers": ["mice", " "]}, "answers[1] must not be empty"),
        ({**QUESTION, "answers": "mice"}, "answers is 'mice': input should be a valid list"),
        ({**QUESTION, "answers": [7]}, "answers[0] is 7: input should be a valid string"),
        ({**QUESTION, "question": "\n"}, "question must not be empty"),
        ({**QUESTION, "documents": []}, "documents must not be an empty list"),
        ({**QUESTION, "documents": ["fox", "owl"]}, "documents names 'owl', which documents.jsonl does not have"),
        ({**QUESTION, "documents": ["fox", "fox"]}, "documents names 'fox' twice"),
        ({**QUESTION, "documents": ["hen"], "gold": ["fox"]}, "'fox', which is not among the question's documents"),
        ({**QUESTION, "evidence": [{"document": "fox", "text": "eats rats"}]}, "does not stand in document 'fox'"),
        ({**QUESTION, "evidence": [{"document": "owl", "text": "x"}]}, "'owl', which is not among the question's"),
        ({**QUESTION, "evidence": [{"document": "fox"}]}, "evidence[0].text is missing"),
        (["not", "an", "object"], "expected an object {...}, found ['not', 'an', 'object']"),
    ],
)
def test_a_bad_question_is_rejected_with_its_reason(question, reason):
    place, said = only_reject(DOCUMENTS, [QUESTION | {"id": "good"}, question])
    assert place == "questions, line 2"
    assert reason in said


def test_all_that_is_wrong_with_a_line_is_said_at_once():
    _, said = only_reject(DOCUMENTS, [{"id": "", "question": 3, "answers": ["x"], "documents": ["fox"]}])
    assert said == "id must not be empty; question is 3: input should be a valid string; split is missing"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"id": "owl", "text": " \n "}, "text must not be empty"),
        ({"id": "owl"}, "text is missing"),
        ({"id": "owl", "txt": "Owls fly."}, "text is missing (rename txt?)"),
        ({"id": 7, "text": "Owls fly."}, "id is 7: input should be a valid string"),
        ({"id": "owl", "text": "Owls fly.", "whole": "yes"}, "whole is 'yes': input should be a valid boolean"),
        ({"id": "owl", "text": None}, "text is None: input should be a valid string"),
    ],
)
def test_a_bad_document_is_rejected_with_its_reason(document, reason):
    place, said = only_reject([*DOCUMENTS, document], [QUESTION])
    assert place == "documents, line 3"
    assert reason in said


def test_a_question_about_a_rejected_document_is_rejected_too():
    documents, examples, rejects = prepare([{"id": "fox", "text": ""}, DOCUMENTS[1]], [QUESTION])
    assert [document.document_id for document in documents] == ["hen"]
    assert examples == []
    assert list(rejects) == ["documents, line 1", "questions, line 1"]


def test_keys_that_open_with_an_underscore_are_the_users_own():
    assert prepare([{**DOCUMENTS[0], "_source": 1}, DOCUMENTS[1]], [{**QUESTION, "_note": {}}])[2] == {}


@pytest.mark.parametrize(
    ("documents", "questions", "message"),
    [
        ([*DOCUMENTS, DOCUMENTS[0]], [], "documents, line 3: document 'fox' already stands in documents, line 1"),
        (DOCUMENTS, [QUESTION, QUESTION], "questions, line 2: question 'q1' already stands in questions, line 1"),
    ],
)
def test_an_id_that_stands_twice_is_never_skipped(documents, questions, message):
    with pytest.raises(DataError, match=message):
        prepare(documents, questions)


def test_control_characters_emoji_and_html_come_through_unchanged():
    text = "<p>\x01 <mask> </s> [INST] שלום 🦊\u200d</p>"
    [document], [example], _ = prepare(
        [{"id": "odd", "text": text}],
        [{**QUESTION, "documents": ["odd"], "evidence": [{"document": "odd", "text": "🦊\u200d"}]}],
    )
    assert document.text == text
    assert text[example.evidence[0].start : example.evidence[0].end] == "🦊\u200d"
