"""SQuALITY: a question over a whole story has the summaries of all its writers as references."""

import json

import pytest

from pipeline.common.tables import Document
from pipeline.data import splits
from pipeline.data.benchmarks import squality
from pipeline.data.splits import OfficialFiles
from pipeline.runtime.errors import DataError


def question(number, *summaries):
    responses = [{"worker_id": "1", "uid": "x", "response_text": text} for text in summaries]
    return {"question_text": f"What is it, {number}?", "question_number": number, "responses": responses}


def line(story="10", *questions):
    return {
        "metadata": {"passage_id": story, "uid": "x", "license": "free"},
        "document": "THE BLUE DOOR\n \n No one had opened it.",
        "questions": list(questions) or [question(1, "A door.", "The door.")],
    }


def prepare(files, **changes):
    """Documents, examples, rejects."""
    rejects = {}
    placed = {
        split: [(f"{split}, line {number}", value) for number, value in enumerate(values, start=1)]
        for split, values in files.items()
    }
    found = splits.benchmark(squality.read, OfficialFiles(placed, rejects.setdefault, **{"seed": 1} | changes))
    return list(found.documents), list(found.examples), rejects


def test_a_question_becomes_an_example_over_its_whole_story():
    documents, [example], rejects = prepare({"test": [line()]})
    assert documents == [Document("squality-10", "", "THE BLUE DOOR\n\nNo one had opened it.", whole=False)]
    assert (example.example_id, example.question_id) == ("squality-10-1", "squality-10-1")
    assert (example.benchmark, example.split) == ("squality", "test")
    assert (example.question, example.answers) == ("What is it, 1?", ["A door.", "The door."])
    assert example.document_ids == ["squality-10"]
    assert (example.gold_document_ids, example.evidence, example.gold_position) == ([], [], -1)
    assert (example.options, example.gold_option, rejects) == ([], -1, {})


def test_references_keep_their_order_and_stand_once():
    _, [example], _ = prepare({"test": [line("10", question(1, " B. \n", "A.", "", "B.", " "))]})
    assert example.answers == ["B.", "A."]


def test_a_question_without_a_summary_is_refused_alone():
    _, examples, rejects = prepare({"test": [line("10", question(1, " "), question(2, "A."), question(3))]})
    assert [example.example_id for example in examples] == ["squality-10-2"]
    assert rejects == {
        "test, line 1, question 1": "none of the responses has text",
        "test, line 1, question 3": "none of the responses has text",
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({**line(), "metadata": {}}, "passage_id is missing"),
        ({**line(), "document": "\n"}, "document must not be empty"),
        ({**line(), "questions": []}, "questions must not be an empty list"),
        ({**line(), "questions": [{**question(1, "A."), "question_number": "1"}]}, 'question_number is "1"'),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(changed, reason):
    documents, _, rejects = prepare({"test": [changed, line("11")]})
    assert [document.document_id for document in documents] == ["squality-11"]
    assert list(rejects) == ["test, line 1"]
    assert reason in rejects["test, line 1"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test": [line(), line()]}, "test, line 2: story 'squality-10' already stands in test, line 1"),
        ({"train": [line()], "dev": [line()]}, "dev, line 1: story 'squality-10' already stands in train, line 1"),
        (
            {"test": [line("10", question(1, "A."), question(1, "B."))]},
            "test, line 1: question 'squality-10-1' already stands in test, line 1",
        ),
    ],
)
def test_what_stands_twice_is_never_skipped(files, message):
    with pytest.raises(DataError, match=message):
        prepare(files)


def read(path):
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_all_real_stories_are_read_and_held_out_whole(shared):
    files = {split: read(shared / "data" / "text" / f"squality_v1-3_{split}.jsonl") for split in ("train", "dev")}
    documents, examples, rejects = prepare(files, test_fraction=0.1)
    assert rejects == {}
    assert len(documents) == 67
    by_split = {
        split: [example for example in examples if example.split == split] for split in ("train", "dev", "test")
    }
    assert {split: len(found) for split, found in by_split.items()} == {"train": 225, "dev": 85, "test": 25}
    stories = [{example.document_ids[0] for example in found} for found in by_split.values()]
    assert sum(map(len, stories)) == len(set.union(*stories)) == 67
    assert all(len(example.answers) == 4 for example in examples)
    raw = {
        f"squality-{record['metadata']['passage_id']}": record["document"] for record in files["train"] + files["dev"]
    }
    assert all(document.text.split() == raw[document.document_id].split() for document in documents)
    assert min(document.text.count("\n\n") for document in documents) > 70
