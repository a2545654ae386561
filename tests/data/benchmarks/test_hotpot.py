"""HotpotQA: every paragraph once, in a shuffled context, with its supporting sentences as evidence."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import splits
from pipeline.data.benchmarks import hotpot
from pipeline.data.checks import BenchmarkChecks
from pipeline.data.splits import OfficialFiles
from pipeline.runtime.errors import DataError

SEA = ["Sea", ["The sea is wide.", " It is in the west.", " "]]
ANN = ["Ann", ["Ann sails."]]
OTHERS = [[f"Other {number}", [f"Text {number}."]] for number in range(8)]


def record(identifier, *facts, context=(SEA, ANN, *OTHERS), **changes):
    given = {"_id": identifier, "question": "Where does Ann sail?", "answer": "west", "type": "bridge", "level": "hard"}
    return {**given, "supporting_facts": [list(fact) for fact in facts], "context": list(context), **changes}


def prepare(files, **changes):
    """Documents by id, examples, rejects; `files` holds the records of each split."""
    entries = {
        split: [(f"{split}.json, entry {number}", value) for number, value in enumerate(records, start=1)]
        for split, records in files.items()
    }
    rejects = {}
    found = splits.benchmark(hotpot.read, OfficialFiles(entries, rejects.setdefault, **{"seed": 1} | changes))
    return {document.document_id: document for document in found.documents}, list(found.examples), rejects


def quoted(example, documents):
    return sorted(documents[found.document_id].text[found.start : found.end] for found in example.evidence)


def titles(example, documents):
    return [documents[name].title for name in example.document_ids]


def test_paragraphs_become_whole_documents_and_supporting_sentences_their_evidence():
    documents, [example], rejects = prepare({"test": [record("q", ("Sea", 1), ("Ann", 0))]})
    assert {(found.title, found.text) for found in documents.values()} == {
        (title, "".join(sentences)) for title, sentences in [SEA, ANN, *OTHERS]
    }
    assert all(found.whole for found in documents.values())
    assert quoted(example, documents) == [" It is in the west.", "Ann sails."]
    assert {documents[name].title for name in example.gold_document_ids} == {"Sea", "Ann"}
    assert example.document_ids[example.gold_position] == example.gold_document_ids[0]
    assert not set(example.document_ids[: example.gold_position]) & set(example.gold_document_ids)
    assert (example.benchmark, example.question_id, example.split, example.answers) == ("hotpot", "q", "test", ["west"])
    assert rejects == {}


@pytest.mark.parametrize("missing", [2, 3, 900, -1], ids=["a blank one", "behind the last", "far behind", "negative"])
def test_a_sentence_that_is_not_there_gives_way_to_the_others_or_to_all_of_its_paragraph(missing):
    documents, examples, _ = prepare(
        {"test": [record("q", ("Sea", missing)), record("r", ("Sea", missing), ("Sea", 0), ("Sea", 0))]}
    )
    assert quoted(examples[0], documents) == ["The sea is wide. It is in the west. "]
    assert quoted(examples[1], documents) == ["The sea is wide."]


def test_facts_about_paragraphs_that_are_not_in_the_context_leave_gold_unknown():
    _, [example], rejects = prepare({"test": [record("q", ("Lake", 0))]})
    assert (example.gold_document_ids, example.evidence, example.gold_position) == ([], [], -1)
    assert rejects == {}


def test_two_paragraphs_of_one_title_are_both_gold():
    twin = ["Sea", ["Another sea."]]
    documents, [example], _ = prepare({"test": [record("q", ("Sea", 1), context=[SEA, twin, *OTHERS])]})
    assert quoted(example, documents) == [" It is in the west.", "Another sea."]
    assert len(example.gold_document_ids) == 2


def test_a_paragraph_stands_once_however_many_questions_or_contexts_hold_it():
    repeated = record("q", ("Sea", 0), context=[SEA, SEA, ["Blank", ["", " "]], ["Sea", ["The sea is wide.", " "]]])
    documents, examples, _ = prepare({"test": [repeated, record("r", ("Ann", 0))]})
    assert len(examples[0].document_ids) == 2
    assert len(examples[1].document_ids) == 10
    assert len(documents) == 11


def test_the_order_of_a_context_comes_from_the_seed_and_the_question_alone():
    given = [record(f"q{number}", ("Sea", 0)) for number in range(200)]
    reversed_ = [{**found, "context": found["context"][::-1]} for found in given]
    documents, examples, _ = prepare({"test": given})
    assert prepare({"test": reversed_})[1] == examples
    assert prepare({"test": given}, seed=2)[1] != examples
    assert len({tuple(example.document_ids) for example in examples}) == 200
    places = Counter(titles(example, documents).index("Sea") for example in examples)
    assert set(places) == set(range(10))
    assert max(places.values()) < 40


def test_train_is_held_out_by_questions_and_other_files_stay_in_their_split():
    files = {"train": [record(f"q{number}") for number in range(10)], "dev": [record("d")], "test": [record("t")]}
    _, examples, _ = prepare(files, dev_fraction=0.2, test_fraction=0.1)
    assert Counter(example.split for example in examples) == {"train": 7, "dev": 3, "test": 2}
    assert {example.question_id: example.split for example in examples}.items() >= {("d", "dev"), ("t", "test")}


def test_max_questions_takes_the_first_of_each_split_and_only_their_paragraphs():
    files = {
        "dev": [record("d")],
        "test": [record(f"q{number}", context=[[f"Title {number}", ["Text."]]]) for number in range(5)],
    }
    documents, examples, _ = prepare(files, max_questions=2)
    assert [example.question_id for example in examples] == ["d", "q0", "q1"]
    assert len(documents) == 12


def test_a_question_that_stands_twice_is_refused_with_both_places():
    with pytest.raises(
        DataError, match=r"^test.json, entry 2: question 'q' already stands in train.json, entry 1; keep"
    ):
        prepare({"train": [record("q")], "test": [record("r"), record("q")]})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (["q"], "expected an object"),
        (record("q", answer=""), "answer must not be empty"),
        (record("q", context=[]), "context must not be an empty list"),
        (record("q", context=[["Blank", [" "]]]), "context holds no paragraph with text"),
        (record("q", ("Sea", "1")), 'supporting_facts[0][1] is "1"'),
        (record("q", context=[["Sea", "The sea is wide."]]), 'context[0][1] is "The sea is wide."'),
        (record("q", context=[["Sea"]]), "context[0]"),
        (record("q", context={"title": ["Sea"], "sentences": [["The sea is wide."]]}), 'context[0] is "title"'),
        ({key: value for key, value in record("q").items() if key != "_id"}, "id is missing"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason(bad, reason):
    _, examples, rejects = prepare({"test": [bad, record("good")]})
    assert [example.question_id for example in examples] == ["good"]
    assert list(rejects) == ["test.json, entry 1"]
    assert reason in rejects["test.json, entry 1"]


SENTENCES = st.lists(st.text(st.sampled_from("ab. "), max_size=5), min_size=1, max_size=4)


@given(st.lists(st.tuples(st.sampled_from("AB"), SENTENCES), min_size=1, max_size=5), st.data())
def test_every_piece_of_evidence_is_a_supporting_sentence_or_a_whole_paragraph(context, data):
    facts = data.draw(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(-1, 4)), max_size=4))
    asked = record("q", *facts, context=[list(pair) for pair in context])
    documents, examples, rejects = prepare({"test": [asked]})
    assert len(examples) + len(rejects) == 1
    for example in examples:
        named = {title for title, _ in facts}
        assert {documents[name].title in named for name in example.gold_document_ids} <= {True}
        assert {found.document_id for found in example.evidence} == set(example.gold_document_ids)
        for found in example.evidence:
            document = documents[found.document_id]
            part = document.text[found.start : found.end]
            sentences = [
                sentences[number]
                for title, sentences in context
                for of, number in facts
                if title == of == document.title and number in range(len(sentences))
            ]
            assert part.strip()
            assert part == document.text or part in sentences


def test_the_real_questions_keep_their_paragraphs_and_supporting_sentences(shared):
    records = json.loads((shared / "data/hotpotqa/hotpot_dev_distractor_sample.json").read_text(encoding="utf-8"))
    documents, examples, rejects = prepare({"test": records})
    assert (len(documents), len(examples), rejects) == (653, 67, {})
    assert Counter(len(example.document_ids) for example in examples) == {10: 65, 5: 1, 2: 1}
    checks = BenchmarkChecks()
    for document in documents.values():
        checks.add_document(document)
    for example, source in zip(examples, records, strict=True):
        checks.add_example(example)
        sentences_of = dict(source["context"])
        assert quoted(example, documents) == sorted({sentences_of[t][n] for t, n in source["supporting_facts"]})
        assert {documents[name].title for name in example.gold_document_ids} == {
            title for title, _ in source["supporting_facts"]
        }
    # They stand first in this file, and would be found by their place.
    assert len({example.gold_position for example in examples}) > 4
    assert checks.summary()["documents"]["num_unused"] == 0
