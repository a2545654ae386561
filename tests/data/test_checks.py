"""Checks that every benchmark must pass, and the counts that prepare reports."""

from dataclasses import replace

import pytest

from pipeline.common.tables import Document, Evidence, Example
from pipeline.data.checks import BenchmarkChecks
from pipeline.runtime.errors import DataError

DOCUMENTS = [
    Document("a", "", "One two three."),
    Document("b", "", "Four."),
    Document("c", "", "Never used here at all."),
]
EXAMPLE = Example(
    example_id="e1",
    question_id="q1",
    benchmark="test",
    split="train",
    question="What?",
    answer_lead="",
    answers=["One"],
    document_ids=["a", "b"],
    gold_document_ids=["b"],
    evidence=[Evidence("b", 0, 4)],
    gold_position=1,
)


def checks(*examples, documents=DOCUMENTS):
    taken = BenchmarkChecks()
    for document in documents:
        taken.add_document(document)
    for example in examples:
        taken.add_example(example)
    return taken


def test_counts():
    other = replace(EXAMPLE, example_id="e2", document_ids=["b"], gold_position=0)
    summary = checks(EXAMPLE, other).summary()
    words = {"mean": 3.0, "max": 5}
    assert summary["documents"] == {"num_documents": 3, "num_unused": 1, "num_copies": 0, "words": words}
    assert summary["splits"]["train"] == {
        "num_questions": 1,
        "num_examples": 2,
        "num_gold_known": 2,
        "num_examples_by_num_documents": {"1": 1, "2": 1},
    }
    assert summary["splits"]["test"]["num_examples"] == 0
    assert summary["leaks"] == {"num_documents": 0, "num_questions": 0}


def test_texts_and_questions_of_train_that_stand_in_dev_or_test_are_leaks():
    documents = [*DOCUMENTS, Document("a copy", "Another title", "one  two THREE.")]
    assert checks(EXAMPLE, documents=documents).summary()["documents"]["num_copies"] == 1
    train = replace(EXAMPLE, document_ids=["a", "b"])
    test = replace(EXAMPLE, example_id="e2", split="test", question="what? ", document_ids=["a copy", "c"])
    test = replace(test, gold_document_ids=[], evidence=[], gold_position=-1)
    assert checks(train, test, documents=documents).summary()["leaks"] == {"num_documents": 1, "num_questions": 1}
    # The same wording with another answer is another question, as benchmarks ask one thing of every story.
    other = replace(test, answers=["Another"])
    assert checks(train, other, documents=documents).summary()["leaks"] == {"num_documents": 1, "num_questions": 0}
    # Among dev and test, or within train, nothing leaks.
    dev = replace(test, example_id="e3", split="dev")
    assert checks(dev, test, documents=documents).summary()["leaks"] == {"num_documents": 0, "num_questions": 0}


def test_a_document_with_the_text_of_a_gold_one_is_gold_too():
    """A quote stands at the same characters, or the whole copy is the evidence where its blanks are others."""
    copies = [Document("same", "Other", "FOUR."), Document("wider", "Other", "Four. ")]
    example = replace(EXAMPLE, document_ids=["wider", "a", "b", "same"], gold_position=2)
    taken = checks(documents=[*DOCUMENTS, *copies])
    found = taken.add_example(example)
    assert (found.gold_document_ids, found.gold_position) == (["wider", "b", "same"], 0)
    assert {(each.document_id, each.start, each.end) for each in found.evidence} == {
        ("b", 0, 4), ("same", 0, 4), ("wider", 0, 6)
    }  # fmt: skip
    # No copy is gold where none is, and an example without copies stays as it is.
    unknown = replace(example, example_id="e2", gold_document_ids=[], evidence=[], gold_position=-1)
    assert taken.add_example(unknown) == unknown
    alone = replace(EXAMPLE, example_id="e3")
    assert taken.add_example(alone) == alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "validation"}, "split is 'validation', expected one of train, unlabelled, dev, test, surface"),
        ({"question": " "}, "the question is empty"),
        ({"answers": []}, "no answer, or an empty one"),
        ({"answers": ["One", ""]}, "no answer, or an empty one"),
        ({"document_ids": []}, "the context is empty, or holds a document twice"),
        ({"document_ids": ["a", "a"]}, "the context is empty, or holds a document twice"),
        ({"document_ids": ["a", "z"]}, "the context names 'z', which is no document"),
        ({"gold_document_ids": ["c"]}, "do not stand at gold position 1"),
        ({"gold_position": 0}, "do not stand at gold position 0"),
        ({"gold_document_ids": [], "evidence": []}, "do not stand at gold position 1"),
        ({"evidence": [Evidence("c", 0, 1)]}, "evidence lies in 'c', which is not in the context"),
    ],
)
def test_an_example_that_would_break_a_later_stage_is_refused(change, message):
    with pytest.raises(DataError, match=f"example 'e1': .*{message}"):
        checks(replace(EXAMPLE, **change))


def test_ids_are_unique():
    with pytest.raises(DataError, match="example 'e1': the id stands twice"):
        checks(EXAMPLE, EXAMPLE)
    with pytest.raises(DataError, match="document 'a' stands twice"):
        checks(documents=[DOCUMENTS[0], DOCUMENTS[0]])


def test_a_document_without_words_is_refused():
    with pytest.raises(DataError, match="document 'a' has no text"):
        checks(documents=[Document("a", "Title", " \n\u200b")])


def test_a_benchmark_without_examples_is_refused():
    with pytest.raises(DataError, match="not one question"):
        checks().summary()
