"""Questions with a context of their own: whole units are held out, every document is given once."""

import pytest

from pipeline.common.tables import Document, Example
from pipeline.data import splits
from pipeline.data.splits import Question
from pipeline.runtime.errors import DataError

DOCUMENTS = {name: Document(name, "", f"Text {name}.") for name in "abcd"}


def question(name, unit, context):
    example = Example(name, name, "made", "", "Who?", "", ["x"], list(context), [], [], -1)
    return Question(f"line {name}", unit, [DOCUMENTS[letter] for letter in context], example)


def benchmark(files, **changes):
    settings = {"dev_fraction": 0.0, "test_fraction": 0.0, "seed": 1, "max_questions": None} | changes
    found = splits.benchmark(lambda split: iter(files.get(split, ())), **settings)
    return [document.document_id for document in found.documents], [(e.question_id, e.split) for e in found.examples]


def test_each_document_is_given_once_and_each_split_keeps_its_order():
    files = {"test": [question("q3", "u", "da")], "train": [question("q1", "u", "ab"), question("q2", "v", "bc")]}
    assert benchmark(files) == (["a", "b", "c", "d"], [("q1", "train"), ("q2", "train"), ("q3", "test")])


def test_questions_of_one_unit_are_held_out_together():
    files = {"train": [question(f"q{n}", f"u{n // 5}", "ab") for n in range(20)]}
    _, examples = benchmark(files, dev_fraction=0.25, test_fraction=0.5)
    splits = [{split for _, split in examples[start : start + 5]} for start in range(0, 20, 5)]
    assert sorted(split for found in splits for split in found) == ["dev", "test", "test", "train"]


def test_max_questions_counts_in_each_split_and_unused_documents_are_not_given():
    files = {"train": [question("q1", "u", "a"), question("q2", "u", "b")], "test": [question("q3", "u", "c")]}
    assert benchmark(files, max_questions=1) == (["a", "c"], [("q1", "train"), ("q3", "test")])


def test_a_question_id_in_two_splits_names_both_places():
    files = {"train": [question("q", "u", "a")], "test": [question("q", "u", "b")]}
    with pytest.raises(DataError, match=r"line q: question 'q' already stands in line q; keep one of them"):
        benchmark(files)
