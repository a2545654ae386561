"""Natural Questions: records with a context are taken as they are, contexts built by us hold clean distractors."""

import gzip
import json
from collections import Counter

import pytest

from pipeline.core import answers
from pipeline.core.benchmarks import nq
from pipeline.core.documents import Evidence
from pipeline.errors import DataError


def passage(text, title="", **marks):
    return {"title": title, "text": text, **marks}


def record(question, answer, *passages):
    return {"question": question, "answers": [answer], "ctxs": list(passages), "nq_annotated_gold": {"title": ""}}


ORACLE = [
    record("who won the race in 1990", "Ann", passage("Ann won the race in 1990.", "Race", isgold=True)),
    record("who won the race in 1991", "Bob", passage("In 1991 Bob won the race.", "Race", isgold=True)),
    record("who won the race in 1992", "Cid", passage("Cid won in 1992, as he said.", "Cycle race", isgold=True)),
    record("who came to the race in 1990", "Dan", passage("To the race came Dan, and Ann.", "", isgold=True)),
    record("where is the sea", "west", passage("The sea is in the west.", "Sea", isgold=True)),
]


def prepare(records, **changes):
    """Texts by document id, examples, rejects."""
    settings = {"seed": 1, "num_documents": [2], "gold_position": "first", "max_questions": None} | changes
    rejects = {}
    lines = [(f"line {number}", value) for number, value in enumerate(records, start=1)]
    found = nq.benchmark(lines, rejects.setdefault, **settings)
    return {document.document_id: document for document in found.documents}, list(found.examples), rejects


def texts(example, documents):
    return [documents[name].text for name in example.document_ids]


def test_distractors_rank_by_bm25_and_hold_no_answer():
    documents, examples, _ = prepare(ORACLE, num_documents=[3])
    # Dan's passage ranks high for Ann's question, but names her.
    assert texts(examples[0], documents) == [
        "Ann won the race in 1990.", "In 1991 Bob won the race.", "Cid won in 1992, as he said.",
    ]  # fmt: skip
    assert len(documents) == 5
    assert all(document.whole for document in documents.values())


@pytest.mark.parametrize(("answer", "stands"), [("1ST", False), ("2nd", True)])
def test_an_answer_in_the_title_counts(answer, stands):
    titled = record("which race is first", "1st", passage("The race of Ann.", "The 1st", isgold=True))
    asked = record("the race of Ann", answer, passage("Nobody knows.", "", isgold=True))
    documents, examples, _ = prepare([*ORACLE[:4], titled, asked], num_documents=[3])
    assert ("The race of Ann." in texts(examples[-1], documents)) == stands


def test_the_gold_text_under_another_title_is_no_distractor():
    twin = record("who else won", "Bea", passage("ann won  the race in 1990.", "Sports", isgold=True))
    asked = record("who won the race in 1990", "the twin", passage("Ann won the race in 1990.", "Race", isgold=True))
    documents, examples, _ = prepare([asked, *ORACLE[1:], twin], num_documents=[5])
    assert "ann won  the race in 1990." not in texts(examples[0], documents)


@pytest.mark.parametrize(("where", "place"), [("first", 0), ("middle", 1), ("last", 3)])
def test_the_gold_passage_stands_where_it_was_asked_for(where, place):
    documents, examples, _ = prepare(ORACLE, num_documents=[4], gold_position=where)
    for example, source in zip(examples, ORACLE, strict=True):
        gold = source["ctxs"][0]["text"]
        assert texts(example, documents)[place] == gold
        assert example.gold_position == place
        assert example.gold_document_ids == [example.document_ids[place]]
        assert example.evidence == [Evidence(example.document_ids[place], 0, len(gold))]


def test_larger_contexts_hold_the_distractors_of_smaller_ones_in_the_same_order():
    _, examples, _ = prepare(ORACLE, num_documents=[2, 3, 4], gold_position="spread")
    of_first = [
        [name for name in example.document_ids if name not in example.gold_document_ids] for example in examples[:3]
    ]
    assert [len(found) for found in of_first] == [1, 2, 3]
    assert of_first[2][:1] == of_first[0]
    assert of_first[2][:2] == of_first[1]
    assert len({example.question_id for example in examples[:3]}) == 1
    assert len({example.example_id for example in examples}) == 15


@pytest.mark.parametrize("num_documents", [1, 2, 10, 30])
def test_spread_gives_each_place_equally_often_in_a_drawn_order(num_documents):
    places = [nq.position_of_gold("spread", num_documents, question, seed=1) for question in range(20 * num_documents)]
    assert set(Counter(places).values()) == {20}
    assert set(places) == set(range(num_documents))
    if num_documents > 2:
        assert places != [
            nq.position_of_gold("spread", num_documents, question, seed=2) for question in range(len(places))
        ]


def test_records_with_a_context_are_taken_as_they_are():
    full = record(
        "who sang", "Eve",
        passage("Eve did not sing.", "A", hasanswer=True, isgold=False, id="12", score=1.5),
        passage("Eve sang.", "B", hasanswer=True, isgold=True),
        passage("All sang.", "C", hasanswer=False, isgold=False),
    )  # fmt: skip
    documents, [example], rejects = prepare([full], num_documents=[10])
    assert texts(example, documents) == ["Eve did not sing.", "Eve sang.", "All sang."]
    assert (example.gold_position, example.split, example.benchmark, example.answers) == (1, "test", "nq", ["Eve"])
    assert rejects == {}


def test_the_same_question_with_its_gold_passage_elsewhere_is_another_example_of_one_question():
    gold, other = passage("Eve sang.", "B", isgold=True), passage("All sang.", "C", isgold=False)
    documents, examples, _ = prepare([record("who sang", "Eve", gold, other), record("who sang", "Eve", other, gold)])
    assert len(documents) == 2
    assert [example.gold_position for example in examples] == [0, 1]
    assert len({example.question_id for example in examples}) == 1
    assert len({example.example_id for example in examples}) == 2


def test_retrieved_contexts_may_lack_the_gold_passage():
    _, [example], _ = prepare([record("who sang", "Eve", passage("A."), passage("B."))])
    assert (example.gold_position, example.gold_document_ids, example.evidence) == (-1, [], [])


def test_max_questions_counts_questions_not_examples():
    documents, examples, _ = prepare(ORACLE, num_documents=[2, 3], max_questions=2)
    assert [example.question for example in examples] == [ORACLE[0]["question"]] * 2 + [ORACLE[1]["question"]] * 2
    assert set(documents) == {name for example in examples for name in example.document_ids}


def test_the_same_settings_give_the_same_and_another_seed_does_not():
    drawn = [prepare(ORACLE, num_documents=[4], gold_position="spread", seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_too_few_passages_are_named():
    with pytest.raises(DataError, match=r"needs 9 distractors, the collection has 3 passages without an answer; lower"):
        prepare(ORACLE, num_documents=[10])


def test_a_record_that_stands_twice_is_named():
    with pytest.raises(DataError, match=r"line 6: 'who won the race in 1990' over 2 documents .* stands in line 1"):
        prepare([*ORACLE, ORACLE[0]])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("q", "a"), "ctxs must not be an empty list"),
        (record("q", "a", passage("x")), "ctxs holds one passage, and it is not marked `isgold: true`"),
        (record("q", "a", passage("x"), passage("x")), "ctxs holds one passage twice"),
        (record("q", "a", passage(" ", isgold=True)), "ctxs[0].text must not be empty"),
        (record(" ", "a", passage("x", isgold=True)), "question must not be empty"),
        ({"question": "q", "answers": [], "ctxs": [passage("x", isgold=True)]}, "answers must not be an empty list"),
        (
            {"questions": "q", "answers": ["a"], "ctxs": [passage("x", isgold=True)]},
            "question is missing (rename questions?)",
        ),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason(bad, reason):
    _, _, rejects = prepare([*ORACLE, bad])
    assert list(rejects) == ["line 6"]
    assert reason in rejects["line 6"]


def test_the_real_questions_get_clean_contexts_of_ten_twenty_and_thirty(shared):
    with gzip.open(shared / "data/nq/nq-open-oracle.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    documents, examples, rejects = prepare(records, num_documents=[10, 20, 30], gold_position="spread")
    assert (len(documents), len(examples), rejects) == (2_600, 3 * 2_655, {})
    assert len({example.question_id for example in examples}) == 2_655
    for size in (10, 20, 30):
        places = Counter(example.gold_position for example in examples if len(example.document_ids) == size)
        assert len(places) == size
        assert max(places.values()) - min(places.values()) == 1
    for example, source in zip(examples[2::3], records, strict=True):
        assert documents[example.gold_document_ids[0]].text == source["ctxs"][0]["text"]
        for name in example.document_ids:
            found = documents[name]
            if name not in example.gold_document_ids:
                assert not any(answers.contains(f"{found.title} | {found.text}", answer) for answer in example.answers)
