"""The user's own format: every rule of it, kept and broken."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    rejects, parts = {}, {"": placed(questions, "questions")}
    found = own_jsonl.benchmark(placed(documents, "documents"), parts, rejects.setdefault, left_out=Counter())
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
    for row in ({**QUESTION, "answers": []}, {**QUESTION, "answers": None}, without("answers")):
        _, [example], rejects = prepare(DOCUMENTS, [{**row, "split": "unlabelled"}])
        assert (example.split, example.answers) == ("unlabelled", [])
    assert rejects == {}


def without(key):
    return {name: value for name, value in QUESTION.items() if name != key}


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (without("split"), "split is missing"),
        ({**without("answers"), "answer": "mice"}, "answers is missing (rename answer?)"),
        ({**without("answers"), " answers": ["mice"]}, 'answers is missing (rename " answers"?)'),
        ({**QUESTION, "golds": ["fox"]}, "golds is not a key of this file (did you mean gold?)"),
        ({**QUESTION, "colour": "red"}, "colour is not a key of this file; keys of your own open with an underscore"),
        ({**QUESTION, "split": "held"}, "split is \"held\": input should be 'train', 'unlabelled', 'dev' or 'test'"),
        ({**QUESTION, "answers": []}, "answers must not be an empty list in split test; split unlabelled is for"),
        ({**QUESTION, "split": "unlabelled"}, "answers must be an empty list in split unlabelled; a question with"),
        ({**QUESTION, "answers": ["mice", " "]}, "answers[1] must not be empty"),
        ({**QUESTION, "answers": "mice"}, 'answers is "mice": expected a list: [...]'),
        ({**QUESTION, "answers": [7.0]}, 'answers[0] is 7.0: expected a text, in double quotes: "..."'),
        ({**QUESTION, "answers": [True]}, "answers[0] is true: expected a text"),
        ({**QUESTION, "answers": [["mice"], ["rats"]]}, 'answers[0] is ["mice"]: expected a text'),
        ({**QUESTION, "answers": None}, "answers is null: expected a list"),
        ({**QUESTION, "question": "\u200b\ufeff"}, "question must not be empty"),
        (
            {"prompt": "Who?", "completion": "mice"},
            'this is no question with a context (keys: prompt, completion); a row is {"id": "q1"',
        ),
        (
            {"question": "Who?", "answer": "mice"},
            'this is no question with a context (keys: question, answer); a row is {"id": "q1"',
        ),
        ({**QUESTION, "documents": ["Fox"]}, "does not have (it has 'fox', not 'Fox': write them alike)"),
        ({**QUESTION, "evidence": [{"document": "fox", "text": "fox", "start": 5}]}, "document 'fox' at character 5"),
        ({**QUESTION, "question": "\n"}, "question must not be empty"),
        ({**QUESTION, "documents": []}, "documents must not be an empty list"),
        ({**QUESTION, "documents": ["fox", "owl"]}, "documents names 'owl', which documents.jsonl does not have"),
        ({**QUESTION, "documents": ["fox", "fox"]}, "documents names 'fox' twice"),
        ({**QUESTION, "documents": ["hen"], "gold": ["fox"]}, "'fox', which is not among the question's documents"),
        ({**QUESTION, "evidence": [{"document": "fox", "text": "eats rats"}]}, "does not stand in document 'fox'"),
        (
            {**QUESTION, "evidence": [{"document": "fox", "text": "THE\u00a0fox"}]},
            "word for word (it does elsewhere, or with other blanks, case or accents: copy it from there)",
        ),
        ({**QUESTION, "evidence": [{"document": "owl", "text": "x"}]}, "'owl', which is not among the question's"),
        ({**QUESTION, "evidence": [{"document": "fox"}]}, "evidence[0].text is missing"),
        (["not", "an", "object"], 'expected an object {...}, found ["not", "an", "object"]'),
    ],
)
def test_a_bad_question_is_rejected_with_its_reason(question, reason):
    place, said = only_reject(DOCUMENTS, [QUESTION | {"id": "good"}, question])
    assert place == "questions, line 2"
    assert reason in said


def test_a_question_that_names_a_document_where_there_is_no_file_of_them_is_told_so():
    rejects = {}
    found = own_jsonl.benchmark(None, {"": placed([QUESTION], "questions")}, rejects.setdefault, left_out=Counter())
    assert (list(found.documents), list(found.examples)) == ([], [])
    assert rejects == {
        "questions, line 1": "documents names 'hen', but there is no documents.jsonl; put one beside the questions, or "
        "give the texts in the row, as context"
    }


def test_all_that_is_wrong_with_a_line_is_said_at_once():
    _, said = only_reject(DOCUMENTS, [{"id": "", "question": True, "answers": ["x"], "documents": ["fox"]}])
    assert said == 'id must not be empty; question is true: expected a text, in double quotes: "..."; split is missing'


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"id": "owl", "text": " \n "}, "text must not be empty"),
        ({"id": "owl"}, "text is missing"),
        ({"id": "owl", "txt": "Owls fly."}, "text is missing (rename txt?)"),
        ({"id": "owl", "text": "\u200b\u00ad"}, "text must not be empty (no character of it can be seen)"),
        ({"id": 7.5, "text": "Owls fly."}, "id is 7.5: expected a text"),
        ({"id": True, "text": "Owls fly."}, "id is true: expected a text"),
        ({"id": "owl", "text": "Owls fly.", "whole": "yes"}, 'whole is "yes": expected true or false'),
        ({"id": "owl", "text": None}, "text is null: expected a text"),
    ],
)
def test_a_bad_document_is_rejected_with_its_reason(document, reason):
    place, said = only_reject([*DOCUMENTS, document], [QUESTION])
    assert place == "documents, line 3"
    assert reason in said


def test_a_row_with_many_faults_is_rejected_in_a_short_line():
    _, said = only_reject([*DOCUMENTS, {f"doc {number}": "text" for number in range(10_000)}], [QUESTION])
    assert said.startswith("id is missing; text is missing; doc 0 is not a key") and said.endswith("; and 9,996 more")
    assert len(said) < 600


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


def test_null_in_a_key_that_may_be_left_out_is_as_if_it_were():
    documents = [{**DOCUMENTS[0], "title": None}, {**DOCUMENTS[1], "whole": None}]
    question = {**QUESTION, "gold": None, "evidence": None, "answer_lead": None}
    found, [example], rejects = prepare(documents, [question])
    assert [(document.title, document.whole) for document in found] == [("", False)] * 2
    assert (example.gold_document_ids, example.answer_lead, rejects) == ([], "", {})


def test_whole_numbers_are_ids_and_answers_and_validation_is_dev():
    question = {**QUESTION, "id": 1, "answers": [1871, " mice\n"], "documents": [7], "split": "validation"}
    [document], [example], rejects = prepare([{"id": 7, "text": "Lit in 1871."}], [question])
    assert (document.document_id, example.document_ids) == ("7", ["7"])
    assert (example.example_id, example.answers, example.split, rejects) == ("1", ["1871", "mice"], "dev", {})


def test_the_first_place_of_a_quote_counts_unless_the_row_tells_another():
    quotes = [{"document": "fox", "text": "fox"}, {"document": "fox", "text": "fox", "start": 20}]
    _, [example], _ = prepare(DOCUMENTS, [{**QUESTION, "evidence": quotes}])
    assert example.evidence == [Evidence("fox", 4, 7), Evidence("fox", 20, 23)]


def test_one_text_under_two_ids_is_one_document_and_never_its_own_distractor():
    documents = [*DOCUMENTS, {**DOCUMENTS[0], "id": "copy", "text": DOCUMENTS[0]["text"] + "\n"}]
    questions = [
        {**QUESTION, "id": "a", "documents": ["fox", "hen"], "gold": ["fox"]},
        {**QUESTION, "id": "b", "documents": ["hen", "copy"], "evidence": [{"document": "copy", "text": "mice"}]},
        {**QUESTION, "id": "c", "documents": ["copy", "hen", "fox"], "gold": ["fox", "copy"]},
    ]
    left_out = Counter()
    found = own_jsonl.benchmark(placed(documents, "d"), {"": placed(questions, "q")}, pytest.fail, left_out)
    assert [document.document_id for document in found.documents] == ["fox", "hen"]
    a, b, c = found.examples
    assert (a.gold_document_ids, b.gold_document_ids, c.gold_document_ids) == (["fox"], ["fox"], ["fox"])
    assert (b.document_ids, c.document_ids) == (["hen", "fox"], ["fox", "hen"])
    assert b.evidence == [Evidence("fox", 29, 33)]
    assert {found.end for found in c.evidence} == {len(DOCUMENTS[0]["text"])}
    assert left_out[own_jsonl.COPIES] == 1
    # Other blanks make no other document, unless a quote is to be found between them.
    spaced = [DOCUMENTS[0], {**DOCUMENTS[0], "id": "copy", "text": DOCUMENTS[0]["text"].replace(" ", "\r\n")}]
    asked = {**QUESTION, "documents": ["copy"], "gold": ["copy"]}
    _, [example], _ = prepare(spaced, [asked])
    assert (example.document_ids, example.evidence) == (["fox"], [Evidence("fox", 0, 34)])
    _, [example], _ = prepare(spaced, [{**asked, "evidence": [{"document": "copy", "text": "mice"}]}])
    assert (example.document_ids, example.evidence) == (["copy"], [Evidence("copy", 36, 40)])
    # Under another title it is another document.
    others = [DOCUMENTS[0], {**DOCUMENTS[0], "id": "other", "title": "Vixen"}]
    assert len(prepare(others, [])[0]) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(
        ["title", "text", "context", "qas", "row", "sentences", "answer_start", "paragraphs", "is_gold", "question"]
    )), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
KEYS = [
    "id", "question", "answers", "documents", "split", "gold", "evidence", "context", "ctxs", "positive_ctxs", "data",
    "negative_ctxs", "paragraphs", "passages", "oracle_context", "cot_answer", "supporting_facts", "title", "rows",
    "answer", "is_impossible", "answer_aliases", "row",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6))
def test_any_object_is_read_or_refused_in_one_line(row):
    good = {"id": "good", "question": "?", "answers": ["x"], "documents": ["fox"], "split": "test", **row}
    for asked in (row, good):
        _, examples, rejects = prepare(DOCUMENTS, json.loads(json.dumps([asked])))
        assert all("\n" not in reason for reason in rejects.values())
        for example in examples:
            assert example.document_ids and set(example.gold_document_ids) <= set(example.document_ids)
