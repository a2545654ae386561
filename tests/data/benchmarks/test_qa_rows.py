"""Rows of SQuAD, Hugging Face, DPR and RAFT become questions of ours, or one line tells what is wrong with them."""

import json
from collections import Counter

import pytest

from pipeline.data.benchmarks import own_jsonl, qa_rows
from pipeline.data.jsonl import JsonRows, Rejects

LIGHT = "Anna Vrba kept the light of Ostrava. Anna Vrba left in 1871."
MILL = "The mill ground rye."


def prepare(*rows, split="train"):
    """Documents by id, examples, rejects, and the number of unanswerable questions."""
    rejects, left_out = {}, Counter()
    parts = {split: [(f"line {number}", row) for number, row in enumerate(rows, start=1)]}
    found = own_jsonl.benchmark([], parts, rejects.setdefault, left_out)
    documents = {document.document_id: document for document in found.documents}
    return documents, list(found.examples), rejects, left_out[own_jsonl.UNANSWERABLE]


def read_one(row):
    """Title and text of each document in order, the example, and the texts of its gold documents."""
    documents, [example], rejects, _ = prepare(row)
    assert rejects == {}
    gold = [documents[name].text for name in example.gold_document_ids]
    return [(documents[name].title, documents[name].text) for name in example.document_ids], example, gold


def quotes(documents, example):
    return [documents[found.document_id].text[found.start : found.end] for found in example.evidence]


SQUAD = {
    "id": "s1",
    "title": "Light",
    "context": LIGHT,
    "question": "Who left in 1871?",
    "answers": {"text": ["Anna Vrba", "Anna Vrba"], "answer_start": [37, 37]},
}
NESTED = {
    "version": "v2.0",
    "data": [
        {
            "title": "Light",
            "paragraphs": [
                {
                    "context": LIGHT,
                    "qas": [
                        {"id": "s1", "question": "Who left?", "answers": [{"text": "Anna Vrba", "answer_start": 37}]},
                        {"id": "s2", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": []},
                    ],
                },
                {"context": MILL, "qas": [{"id": "s3", "question": "What?", "answers": [{"text": "rye"}]}]},
            ],
        }
    ],
}


@pytest.mark.parametrize(
    "row",
    [
        SQUAD,
        {**SQUAD, "answers": [{"text": "Anna Vrba", "answer_start": 37}]},
        {**SQUAD, "answers": {"text": ["Anna Vrba"], "answer_start": [37.0]}},
        {**SQUAD, "answers": "Anna Vrba", "answer_start": 37},
    ],
)
def test_a_flat_row_of_squad(row):
    documents, [example], rejects, _ = prepare(row)
    assert rejects == {}
    [document] = documents.values()
    assert (document.title, document.text, document.whole) == ("Light", LIGHT, False)
    assert (example.question_id, example.answers, example.gold_position) == ("s1", ["Anna Vrba"], 0)
    assert [(found.start, found.end) for found in example.evidence] == [(37, 46)]


def test_a_nested_file_of_squad_with_an_unanswerable_question():
    documents, examples, rejects, num_unanswerable = prepare(NESTED)
    assert [(document.title, document.text) for document in documents.values()] == [("Light", LIGHT), ("Light", MILL)]
    assert [example.question_id for example in examples] == ["s1", "s3"]
    assert [example.gold_position for example in examples] == [0, -1]
    assert quotes(documents, examples[0]) == ["Anna Vrba"] and examples[0].evidence[0].start == 37
    assert (rejects, num_unanswerable) == ({}, 1)
    # A line of an article, or of a flat row inside "data" or the hub's "rows", is the same.
    for row in (*NESTED["data"], {"data": [SQUAD]}, {"rows": [{"row_idx": 0, "row": SQUAD}]}):
        assert prepare(row)[1][0].question_id == "s1"


def test_a_bad_question_deep_in_a_file_is_named_with_its_place():
    bad = {"paragraphs": [{"context": MILL, "qas": [{"id": "x", "question": " ", "answers": [{"text": "rye"}]}]}]}
    assert prepare({"data": [SQUAD, bad]})[2] == {
        "line 1, row 2, paragraph 1, question 1": "question must not be empty"
    }


PASSAGES = [("", LIGHT), ("Mill", MILL)]


@pytest.mark.parametrize(
    "context",
    [
        {"passages": [LIGHT, {"title": "Mill", "text": MILL}]},
        {"contexts": [{"title": None, "text": LIGHT}, {"title": "Mill", "text": MILL}]},
        {"context": {"title": ["", "Mill"], "sentences": [LIGHT.split(" ")[:1], ["x"]]}},
        {"paragraphs": [{"idx": 0, "title": "", "paragraph_text": LIGHT}, {"title": "Mill", "paragraph_text": MILL}]},
        {"ctxs": [{"title": "", "text": LIGHT, "score": 1.5}, {"title": "Mill", "text": MILL, "has_answer": True}]},
        {"documents": [{"title": "", "contents": LIGHT}, {"title": "Mill", "contents": MILL}]},
        {"passages": {"title": ["", "Mill"], "passage_text": [LIGHT, MILL], "url": ["a", "b"]}},
        {"context": [["", [LIGHT]], ["Mill", ["The mill", " ground rye."]]]},
        {"context": [LIGHT, " ", {"title": "Mill", "text": MILL}, LIGHT]},
    ],
)
def test_passages_in_every_form(context):
    found, example, gold = read_one({"id": 7, "question": "What?", "answer": "rye", **context})
    if "sentences" in str(context):
        assert found == [("", "Anna"), ("Mill", "x")]
    else:
        assert found == PASSAGES
    assert (example.example_id, example.answers, gold, example.gold_position) == ("7", ["rye"], [], -1)


@pytest.mark.parametrize(
    "row",
    [
        {"passages": {"is_selected": [0, 1], "passage_text": [LIGHT, MILL]}},
        {"paragraphs": [{"paragraph_text": LIGHT, "is_supporting": False}, {"text": MILL, "is_supporting": True}]},
        {"ctxs": [{"text": LIGHT, "isgold": False}, {"text": MILL, "isgold": True}]},
        {"positive_ctxs": [{"text": MILL}], "hard_negative_ctxs": [{"text": LIGHT}], "negative_ctxs": []},
        {"context": [["Light", [LIGHT]], ["Mill", [MILL]]], "supporting_facts": [["Mill", 0]]},
        {
            "context": {"title": ["Light", "Mill"], "sentences": [[LIGHT], [MILL]]},
            "supporting_facts": {"title": ["Mill"], "sent_id": [0]},
        },
    ],
)
def test_marks_of_gold_in_every_form(row):
    found, _, gold = read_one({"query": "What?", "answers": ["rye", "Rye"], **row})
    assert gold == [MILL] and sorted(text for _, text in found) == sorted([LIGHT, MILL])


def test_the_place_of_a_positive_passage_of_dpr_tells_nothing():
    negatives = [{"title": "", "text": f"Nothing {number}."} for number in range(4)]
    rows = [
        {
            "question": f"What {number}?",
            "answers": ["rye"],
            "positive_ctxs": [{"text": MILL}],
            "negative_ctxs": negatives,
        }
        for number in range(60)
    ]
    _, examples, rejects, _ = prepare(*rows)
    assert len({example.question_id for example in examples}) == 60 and rejects == {}
    places = Counter(example.gold_position for example in examples)
    assert set(places) == {0, 1, 2, 3, 4} and max(places.values()) < 30
    assert prepare(*rows)[1] == examples


def test_a_row_of_raft_has_the_final_answer_and_its_quotes_as_evidence():
    docs = [MILL, LIGHT, "A third."]
    row = {
        "id": "seed_task_0",
        "type": "general",
        "question": "Who left in 1871?",
        "context": {"title": [["placeholder_title"] * 3], "sentences": [docs]},
        "oracle_context": LIGHT,
        "cot_answer": "##Reason: ##begin_quote## Anna Vrba left in 1871. ##end_quote## So she.\n<ANSWER>: Anna Vrba",
        "instruction": "<DOCUMENT>...",
    }
    documents, [example], rejects, _ = prepare(row)
    assert [documents[name].text for name in example.document_ids] == docs and rejects == {}
    assert {document.title for document in documents.values()} == {""}
    assert (example.answers, example.gold_position) == (["Anna Vrba"], 1)
    assert quotes(documents, example) == ["Anna Vrba left in 1871."]
    # Some rows have no oracle in their context: where the answer stands is unknown then.
    _, [example], _, _ = prepare({**row, "oracle_context": "Not here."})
    assert (example.gold_position, example.evidence) == (-1, [])


def test_aliases_are_references_and_what_cannot_be_answered_is_counted():
    row = {"id": "m", "question": "What?", "answer": "rye", "answer_aliases": ["Rye flour"], "context": MILL}
    assert read_one({**row, "answerable": True})[1].answers == ["rye", "Rye flour"]
    for gone in ({"answerable": False}, {"answer": {"text": [], "answer_start": []}}, {"answer": None}):
        _, examples, rejects, num_unanswerable = prepare({**row, "answer_aliases": None, **gone})
        assert (examples, rejects, num_unanswerable) == ([], {}, 1)
    _, [example], _, num_unanswerable = prepare({**row, "answer": None}, split="unlabelled")
    assert (example.answers, num_unanswerable) == ([], 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"context": " "}, "context holds no passage with text"),
        ({"context": None}, "the context is null; give its texts, or leave the row out"),
        ({"context": [1]}, "a passage is 1; expected a text or an object with title and text"),
        ({"context": [{"url": "x"}]}, "a passage has no text (keys: url); give it as one of text, paragraph_text"),
        ({"context": {"title": ["a"], "text": ["b", "c"]}}, "the lists title, text differ in length"),
        ({"context": [LIGHT, MILL]}, "answer_start counts in one context, but there are 2 passages"),
        (
            {"answers": [{"text": "Piet", "answer_start": 3}]},
            'the answer "Piet" is not at its answer_start 3, nor anywhere in the context; answer_start counts',
        ),
        (
            {"answers": [{"text": "Anna Vrba", "answer_start": 36}]},
            'the answer "Anna Vrba" is not at its answer_start 36, but first at 0; answer_start counts',
        ),
        (
            {"answers": {"text": ["Anna Vrba"], "answer_start": [-10]}},
            'the answer "Anna Vrba" is not at its answer_start -10, but first at 0',
        ),
        ({"answers": [["Anna"], ["Vrba"]]}, 'answers[0] is ["Anna"]: expected a text'),
        ({"answers": {"text": ["Anna Vrba"], "answer_start": ["37"]}}, 'answer_start is "37": expected a whole number'),
        (
            {"answers": {"text": ["Anna Vrba"], "answer_start": [36.0]}},
            'the answer "Anna Vrba" is not at its answer_st',
        ),
        ({"answers": "Anna Vrba", "answer_start": 36}, 'the answer "Anna Vrba" is not at its answer_start 36'),
        ({"answers": None, "cot_answer": "It is Anna."}, "cot_answer has no <ANSWER>: before its answer; add it"),
        ({"question": {"text": "Who?"}}, 'question is {"text": "Who?"}: expected a text'),
        ({"gold": [0]}, "gold names documents, but this row carries texts; mark gold passages with `is_gold: true`"),
        ({"split": "later"}, "split is \"later\": input should be 'train'"),
    ],
)
def test_a_row_that_cannot_be_told_is_rejected_with_its_reason(change, reason):
    _, examples, rejects, _ = prepare({**SQUAD, "id": "good"}, {**SQUAD, **change})
    assert [example.example_id for example in examples] == ["good"]
    assert list(rejects) == ["line 2"] and rejects["line 2"].startswith(reason)


@pytest.mark.parametrize("depth", [1, 100, 700, 900, 960, 990, 5000])
@pytest.mark.parametrize("key", ["context", "answers", "question", "title"])
def test_deep_nesting_is_read_or_refused_in_one_line(tmp_path, depth, key):
    path = tmp_path / "rows.jsonl"
    row = json.dumps({**SQUAD, "answers": ["Anna Vrba"], key: "here"})
    deep = row.replace('"here"', "[" * depth + '"here"' + "]" * depth)
    path.write_text(deep + "\n" + json.dumps({**SQUAD, "id": 0}))
    rejects = Rejects(skip=True)
    parts = {"train": JsonRows([path], rejects)}
    found = own_jsonl.benchmark([], parts, rejects.reject, Counter())
    list(found.documents)
    assert len(list(found.examples)) + rejects.num_bad == 2
    assert all(len(reject["reason"]) < 200 for reject in rejects.summary()["first_rejects"])


def test_the_real_questions_of_xquad_stand_where_the_file_says(shared):
    rows = list(JsonRows([shared / "data/squad/xquad.en.json"], Rejects()))
    [whole] = [row for _, row in rows]
    asked = [(p["context"], qa) for article in whole["data"] for p in article["paragraphs"] for qa in p["qas"]]
    documents, examples, rejects, _ = prepare(whole)
    assert rejects == {} and len(examples) == len(asked)
    for example, (context, qa) in zip(examples, asked, strict=True):
        [name] = example.document_ids
        assert documents[name].text == context and example.question_id == qa["id"]
        assert [found.start for found in example.evidence] == list({a["answer_start"] for a in qa["answers"]})
    assert not any(qa_rows.carries_texts(row) for _, row in rows)
