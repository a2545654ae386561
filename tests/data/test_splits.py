"""Splits: whole groups are held out, the same ones every time, and every document is given once."""

from collections import Counter

import pytest

from pipeline.common.tables import Document
from pipeline.data import splits
from pipeline.data.splits import Group, OfficialFiles
from pipeline.runtime.errors import DataError

NAMES = [f"story-{number}" for number in range(40)]


def held_out(names, **settings):
    return OfficialFiles({}, pytest.fail, **{"seed": 1} | settings).held_out(names)


def test_shares_are_rounded_to_whole_documents():
    found = held_out(NAMES, dev_fraction=0.1, test_fraction=0.25)
    assert Counter(found.values()) == {"train": 26, "dev": 4, "test": 10}


def test_a_small_share_is_at_least_one_document_and_no_share_is_none():
    found = held_out(NAMES[:3], dev_fraction=0.01)
    assert Counter(found.values()) == {"train": 2, "dev": 1}


def test_the_order_and_repetition_of_the_ids_change_nothing_and_the_seed_does():
    shares = {"dev_fraction": 0.2, "test_fraction": 0.2}
    assert held_out(NAMES, seed=1, **shares) == held_out([*NAMES[::-1], *NAMES], seed=1, **shares)
    assert held_out(NAMES, seed=1, **shares) != held_out(NAMES, seed=2, **shares)


DOCUMENTS = {name: Document(name, "", f"Text {name}.") for name in "abcd"}


def question(name, unit, context):
    """A group as a reader yields it, but for its split."""
    documents = [DOCUMENTS[letter] for letter in context]
    return f"line {name}", unit, documents, [splits.example("made", "", name, "Who?", ["x"], list(context))]


def benchmark(files, **settings):
    def read(files):
        for split in splits.SPLITS:
            yield from (Group(split, *found) for found in files.lines.get(split, ()))

    found = splits.benchmark(read, OfficialFiles(files, pytest.fail, **{"seed": 1} | settings))
    return [document.document_id for document in found.documents], [(e.question_id, e.split) for e in found.examples]


def test_each_document_is_given_once_and_each_split_keeps_its_order():
    files = {"test": [question("q3", "u", "da")], "train": [question("q1", "u", "ab"), question("q2", "v", "bc")]}
    assert benchmark(files) == (["a", "b", "c", "d"], [("q1", "train"), ("q2", "train"), ("q3", "test")])


def test_questions_of_one_group_are_held_out_together():
    files = {"train": [question(f"q{n}", f"u{n // 5}", "ab") for n in range(20)]}
    _, examples = benchmark(files, dev_fraction=0.25, test_fraction=0.5)
    found = [{split for _, split in examples[start : start + 5]} for start in range(0, 20, 5)]
    assert sorted(split for splits in found for split in splits) == ["dev", "test", "test", "train"]


def test_max_questions_counts_in_each_split_and_unused_documents_are_not_given():
    files = {"train": [question("q1", "u", "a"), question("q2", "u", "b")], "test": [question("q3", "u", "c")]}
    assert benchmark(files, max_questions=1) == (["a", "c"], [("q1", "train"), ("q3", "test")])


def test_a_question_id_in_two_splits_names_both_places():
    files = {"train": [question("q", "u", "a")], "test": [question("q", "u", "b")]}
    with pytest.raises(DataError, match=r"line q: question 'q' already stands in line q; keep one of them"):
        benchmark(files)
