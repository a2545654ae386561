"""LongBench: passages become documents, and nothing of a context is lost."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.tables import Document
from pipeline.data import splits
from pipeline.data.benchmarks import longbench
from pipeline.data.checks import BenchmarkChecks
from pipeline.data.splits import OfficialFiles
from pipeline.runtime.errors import DataError

CONTEXT = "Passage 1:\nSea\nThe sea is wide.\n\nIt is in the west.\nPassage 2:\nAnn (sailor)\nAnn sails.\n"


def record(identifier, context=CONTEXT, **changes):
    given = {"_id": identifier, "dataset": "musique", "input": "Where is it?", "answers": ["west"], "length": 9}
    return {**given, "context": context, "language": "en", "all_classes": None, **changes}


def prepare(files, **changes):
    """Documents by id, examples, rejects; `files` holds the records of each split."""
    lines = {
        split: [(f"{split}.jsonl, line {number}", value) for number, value in enumerate(records, start=1)]
        for split, records in files.items()
    }
    rejects = {}
    found = splits.benchmark(longbench.read, OfficialFiles(lines, rejects.setdefault, **{"seed": 1} | changes))
    return {document.document_id: document for document in found.documents}, list(found.examples), rejects


def written(documents: list[Document]) -> str:
    return "\n".join(
        f"Passage {number}:\n" + (f"{found.title}\n" if found.title else "") + found.text
        for number, found in enumerate(documents, start=1)
    )


def test_passages_become_whole_documents_titled_by_their_first_line():
    documents, [example], rejects = prepare({"test": [record("q")]})
    assert [(found.title, found.text, found.whole) for found in map(documents.get, example.document_ids)] == [
        ("Sea", "The sea is wide.\n\nIt is in the west.", True),
        ("Ann (sailor)", "Ann sails.\n", True),
    ]
    assert (example.question, example.answers, example.benchmark) == ("Where is it?", ["west"], "longbench")
    assert (example.question_id, example.split, example.subset) == ("q", "test", "musique")
    assert (example.gold_document_ids, example.evidence, example.gold_position) == ([], [], -1)
    assert rejects == {}


@pytest.mark.parametrize("passage", ["w" * 101 + "\nText.", "One line.", "One line.\n ", "\nText.", " \nText."])
def test_a_first_line_that_is_long_blank_or_all_there_is_is_no_title(passage):
    [found, _] = longbench.passages(f"Passage 1:\n{passage}\nPassage 2:\nSea\nWide.")
    assert (found.title, found.text) == ("", passage)


def test_a_context_without_passages_is_one_document_that_may_be_cut():
    documents, [example], _ = prepare({"test": [record("q", "A report.\n\nSee Passage 1: there.\n", dataset="qasper")]})
    assert [(found.title, found.text, found.whole) for found in documents.values()] == [
        ("", "A report.\n\nSee Passage 1: there.\n", False)
    ]
    assert example.document_ids == list(documents)


@pytest.mark.parametrize(
    "context",
    [
        "Read this.\nPassage 1:\nSea\nWide.",
        "Passage 2:\nSea\nWide.",
        "Passage 1:\nSea\nWide.\nPassage 3:\nAnn\nSails.",
        "Passage 1:\nSea\nWide.\nPassage 1:\nAnn\nSails.",
        "Passage 01:\nSea\nWide.",
        "Passage 1:\nPassage 2:\nSea\nWide.",
        "Passage 1:\n ",
    ],
    ids=["text before", "not from 1", "a gap", "twice 1", "leading zero", "no line end between", "no text"],
)
def test_a_context_whose_passages_do_not_give_it_back_is_rejected(context):
    documents, examples, rejects = prepare({"test": [record("q", context), record("good")]})
    assert (len(documents), [example.question_id for example in examples]) == (2, ["good"])
    assert rejects == {
        "test.jsonl, line 1": 'context does not split at its lines "Passage <n>:", n from 1, into passages'
    }


def test_a_passage_stands_once_and_never_empty():
    context = "Passage 1:\nSea\nWide.\nPassage 2:\n\nPassage 3:\nSea\nWide.\nPassage 4:\nAnn\nSails."
    documents, examples, _ = prepare({"test": [record("q", context), record("r", "Passage 1:\nAnn\nSails.")]})
    assert sorted(found.title for found in documents.values()) == ["Ann", "Sea"]
    assert [len(example.document_ids) for example in examples] == [2, 1]


@given(st.lists(st.text(st.sampled_from("aP1:\n "), max_size=8), max_size=5), st.integers(0, 120))
def test_what_is_split_joins_to_the_same_text(passages, length):
    passages = [*passages, "w" * length + "\nText"]
    context = "\n".join(f"Passage {number}:\n{passage}" for number, passage in enumerate(passages, start=1))
    found = longbench.passages(context)
    assert len(found) == len(passages)
    assert written(found) == context


@given(st.lists(st.sampled_from(["Passage 1:\n", "Passage 2:\n", "Passage ", "1", ":", "\n", "a"]), max_size=12))
def test_any_text_is_split_without_loss_or_not_at_all(pieces):
    context = "".join(pieces)
    found = longbench.passages(context)
    assert not found or written(found) == context or [one.text for one in found] == [context]


def test_train_is_held_out_by_whole_contexts_and_other_files_stay_in_their_split():
    train = [record(f"{c}-{q}", f"Story {c}.", dataset="narrativeqa") for c in range(10) for q in range(3)]
    _, examples, _ = prepare(
        {"train": train, "dev": [record("d")], "test": [record("t")]}, dev_fraction=0.2, test_fraction=0.1
    )
    assert Counter(example.split for example in examples) == {"train": 21, "dev": 7, "test": 4}
    held = {example.split for example in examples if example.question_id.startswith("0-")}
    assert len(held) == 1


def test_max_questions_takes_the_first_of_each_split_and_only_their_passages():
    test = [record(f"q{number}", f"Story {number}.") for number in range(5)]
    documents, examples, _ = prepare({"dev": [record("d")], "test": test}, max_questions=2)
    assert [example.question_id for example in examples] == ["d", "q0", "q1"]
    assert len(documents) == 4


def test_a_question_that_stands_twice_is_refused_with_both_places():
    with pytest.raises(DataError, match=r"^test.jsonl, line 1: question 'q' already stands in dev.jsonl, line 2; keep"):
        prepare({"dev": [record("r"), record("q")], "test": [record("q")]})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("q", "expected an object"),
        (record("q", input=""), "input must not be empty"),
        (record("q", answers=[]), "answers must not be an empty list"),
        (record("q", answers="west"), 'answers is "west"'),
        (record("q", context=" "), "context must not be empty"),
        ({key: value for key, value in record("q").items() if key != "_id"}, "id is missing"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason(bad, reason):
    _, examples, rejects = prepare({"test": [bad, record("good")]})
    assert [example.question_id for example in examples] == ["good"]
    assert list(rejects) == ["test.jsonl, line 1"]
    assert reason in rejects["test.jsonl, line 1"]


def test_the_real_contexts_split_into_titled_passages_and_join_again(shared):
    records = [
        json.loads(line)
        for name in ("hotpotqa", "2wikimqa", "musique")
        for line in (shared / f"data/longbench_style/{name}.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    documents, examples, rejects = prepare({"test": records})
    assert rejects == {}
    assert Counter(example.subset for example in examples) == {"hotpotqa": 9, "2wikimqa": 9, "musique": 5}
    checks = BenchmarkChecks()
    for document in documents.values():
        assert document.title
        assert document.whole
        checks.add_document(document)
    for example, source in zip(examples, records, strict=True):
        checks.add_example(example)
        assert written([documents[name] for name in example.document_ids]) == source["context"]
    assert checks.summary()["documents"]["num_unused"] == 0
    assert sum(len(example.document_ids) for example in examples) == 217
