"""QuALITY: two lines make one story, labels count from 1, and a question without four options is refused."""

import json

import pytest

from pipeline.common.tables import Document
from pipeline.data import splits
from pipeline.data.benchmarks import quality
from pipeline.data.checks import BenchmarkChecks
from pipeline.data.splits import OfficialFiles
from pipeline.runtime.errors import DataError

QUESTION = {
    "question": "Who opened the door? ",
    "options": ["Ann ", "Bob", "Cid", "nobody"],
    "gold_label": 2,
    "writer_label": 1,
    "difficult": 1,
    "question_unique_id": "10_W1_1",
}
LINE = {
    "article_id": "10",
    "set_unique_id": "10_W1",
    "title": "The Blue  Door",
    "year": 1950,
    "article": "THE BLUE DOOR\nBy A. WRITER\n\n\n No one had\n opened it.",
    "questions": [QUESTION],
}


def without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


def line(story="10", writer="W1", num_questions=1, **changes):
    """A line with ids of its own."""
    questions = [
        {**QUESTION, "question_unique_id": f"{story}_{writer}_{number}"} for number in range(1, num_questions + 1)
    ]
    return {**LINE, "article_id": story, "set_unique_id": f"{story}_{writer}", "questions": questions, **changes}


def prepare(files, **changes):
    """Documents, examples, rejects."""
    rejects = {}
    placed = {
        split: [(f"{split}, line {number}", value) for number, value in enumerate(values, start=1)]
        for split, values in files.items()
    }
    found = splits.benchmark(quality.read, OfficialFiles(placed, rejects.setdefault, **{"seed": 1} | changes))
    return list(found.documents), list(found.examples), rejects


def test_a_question_becomes_an_example_over_its_whole_story():
    documents, [example], rejects = prepare({"test": [LINE]})
    assert documents == [
        Document("quality-10", "The Blue Door", "THE BLUE DOOR By A. WRITER\n\nNo one had opened it.", whole=False)
    ]
    assert (example.example_id, example.question_id) == ("10_W1_1", "10_W1_1")
    assert (example.benchmark, example.split, example.subset) == ("quality", "test", "hard")
    assert (example.question, example.answer_lead) == ("Who opened the door?", "")
    assert example.document_ids == ["quality-10"]
    assert rejects == {}


@pytest.mark.parametrize(("label", "answer"), [(1, "Ann"), (2, "Bob"), (3, "Cid"), (4, "nobody")])
def test_official_labels_count_from_1(label, answer):
    _, [example], _ = prepare({"test": [{**LINE, "questions": [{**QUESTION, "gold_label": label}]}]})
    assert example.options == ["Ann", "Bob", "Cid", "nobody"]
    assert example.options[example.gold_option] == answer
    assert example.answers == [answer]


def test_where_the_answer_stands_is_unknown():
    _, [example], _ = prepare({"test": [LINE]})
    assert (example.gold_document_ids, example.evidence, example.gold_position) == ([], [], -1)


@pytest.mark.parametrize(("difficult", "subset"), [(1, "hard"), (0, "easy"), (None, "")])
def test_the_hard_subset_is_the_official_one(difficult, subset):
    _, [example], _ = prepare({"test": [{**LINE, "questions": [{**QUESTION, "difficult": difficult}]}]})
    assert example.subset == subset


def test_questions_without_an_id_count_from_1_in_their_set():
    _, examples, _ = prepare({"test": [{**LINE, "questions": [without(QUESTION, "question_unique_id")] * 2}]})
    assert [example.example_id for example in examples] == ["10_W1_1", "10_W1_2"]


def test_the_lines_of_two_writers_are_one_document_however_it_is_spaced():
    other = line(writer="W2", article=" THE BLUE DOOR By A. WRITER No one had opened it.")
    documents, examples, rejects = prepare({"test": [line(), other]})
    assert [document.document_id for document in documents] == ["quality-10"]
    assert [example.document_ids for example in examples] == [["quality-10"]] * 2
    assert rejects == {}


def test_two_lines_of_one_story_with_other_words_are_refused_naming_both():
    _, examples, rejects = prepare({"test": [line(), line(writer="W2", article="Another story.")]})
    assert len(examples) == 1
    assert list(rejects) == ["test, line 2"]
    assert "article '10' has other words than in test, line 1" in rejects["test, line 2"]


def test_a_question_that_stands_twice_is_never_skipped():
    with pytest.raises(DataError, match="test, line 2: question '10_W1_1' already stands in test, line 1"):
        prepare({"test": [LINE, LINE]})


def test_a_story_in_two_splits_is_never_skipped():
    with pytest.raises(DataError, match="dev, line 1: article '10' is in dev here and in train in train, line 1"):
        prepare({"train": [line()], "dev": [line(writer="W2")]})


HTML = "<html><body>" + "<p>\n No one had\n <br/>\n opened it.\n</p>" * 4 + "</body></html>"


def test_html_is_refused_with_the_name_of_the_right_file():
    _, _, rejects = prepare({"test": [line(article=HTML)]})
    assert rejects == {
        "test, line 1": "article is HTML: not the htmlstripped file; use QuALITY.v1.0.1.htmlstripped.<split>"
    }


def test_a_story_that_writes_about_a_tag_is_no_html():
    documents, _, rejects = prepare({"test": [line(article="He typed <p>, then </p>. <!-- It was a > b. -->")]})
    assert documents[0].text == "He typed <p>, then </p>. <!-- It was a > b. -->"
    assert rejects == {}


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (without(QUESTION, "gold_label"), "the labels of the official test file are hidden; use the dev file as test"),
        ({**QUESTION, "gold_label": 0}, "gold_label is 0, expected 1 to 4: official labels count from 1"),
        ({**QUESTION, "gold_label": 5}, "gold_label is 5, expected 1 to 4: official labels count from 1"),
        ({**QUESTION, "options": ["Ann", "Bob", "Cid"]}, "there are 3 options, expected 4"),
        ({**QUESTION, "options": ["Ann", "Bob", "Cid", "Dan", "Eve"]}, "there are 5 options, expected 4"),
        ({**QUESTION, "options": ["Ann", "Bob", "Cid", "Bob "]}, "the right option 'Bob' stands there twice"),
    ],
)
def test_a_question_nobody_can_be_scored_on_is_refused_alone(question, reason):
    good = {**QUESTION, "question_unique_id": "10_W1_2"}
    _, examples, rejects = prepare({"test": [{**LINE, "questions": [question, good]}]})
    assert [example.example_id for example in examples] == ["10_W1_2"]
    assert list(rejects) == ["test, line 1, question 10_W1_1"]
    assert reason in rejects["test, line 1, question 10_W1_1"]


def test_equal_wrong_options_do_no_harm():
    _, [example], rejects = prepare(
        {"test": [{**LINE, "questions": [{**QUESTION, "options": ["x", "Bob", "x", "x"]}]}]}
    )
    assert (example.gold_option, rejects) == (1, {})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (without(LINE, "article"), "article is missing"),
        ({**LINE, "article": " \n "}, "article must not be empty"),
        ({**LINE, "article_id": 1.5}, "article_id is 1.5: expected a text"),
        ({**LINE, "questions": []}, "questions must not be an empty list"),
        ({**LINE, "questions": [{**QUESTION, "options": ["Ann", " ", "Cid", "Dan"]}]}, "options[1] must not be empty"),
        (
            {**LINE, "questions": [{**QUESTION, "gold_label": "2"}]},
            'gold_label is "2": input should be a valid integer',
        ),
        ({**LINE, "questions": [{**QUESTION, "difficult": 2}]}, "difficult is 2: input should be 0 or 1"),
        ([], "expected an object {...}, found []"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(changed, reason):
    documents, _, rejects = prepare({"test": [changed, line("11")]})
    assert [document.document_id for document in documents] == ["quality-11"]
    assert list(rejects) == ["test, line 1"]
    assert reason in rejects["test, line 1"]


TRAIN = [line(str(article), writer, num_questions=3) for writer in ("W1", "W2") for article in range(20)]


def test_stories_of_train_are_held_out_whole():
    files = {"train": TRAIN, "dev": [line("90")], "test": [line("91")]}
    _, examples, _ = prepare(files, dev_fraction=0.1, test_fraction=0.2)
    stories = {
        split: {example.document_ids[0] for example in examples if example.split == split}
        for split in ("train", "dev", "test")
    }
    assert {split: len(found) for split, found in stories.items()} == {"train": 14, "dev": 3, "test": 5}
    assert len(set.union(*stories.values())) == 22
    assert "quality-90" in stories["dev"] and "quality-91" in stories["test"]
    assert len(examples) == 122


def test_the_first_questions_of_each_split_are_taken_and_only_their_stories():
    files = {"train": TRAIN, "test": [line("91", num_questions=3), line("92")]}
    documents, examples, _ = prepare(files, dev_fraction=0.1, max_questions=2)
    every = prepare(files, dev_fraction=0.1)[1]
    assert [example for example in examples if example.split == "test"] == [e for e in every if e.split == "test"][:2]
    assert [example for example in examples if example.split == "dev"] == [e for e in every if e.split == "dev"][:2]
    assert len(examples) == 6
    assert {document.document_id for document in documents} == {example.document_ids[0] for example in examples}


def read(path):
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_all_real_stories_are_read(shared):
    folder = shared / "data" / "quality"
    given = {"train": read(folder / "quality_leval_dev.jsonl"), "test": read(folder / "quality_example_text.jsonl")}
    documents, examples, rejects = prepare(given, dev_fraction=0.1)
    assert rejects == {}
    assert len(documents) == 11
    assert sum(example.split == "test" for example in examples) == 5
    assert sum(example.split != "test" for example in examples) == 131
    labels = [
        question["gold_label"] for record in [*given["train"], *given["test"]] for question in record["questions"]
    ]
    assert [example.gold_option + 1 for example in examples] == labels
    raw = {f"quality-{record['article_id']}": record["article"] for record in [*given["train"], *given["test"]]}
    assert all(document.text.split() == raw[document.document_id].split() for document in documents)
    # Ten of the stories have a hundred paragraphs and more, the Slate article 29.
    assert sorted(document.text.count("\n\n") + 1 for document in documents)[:2] == [29, 100]
    checks = BenchmarkChecks()
    for document in documents:
        checks.add_document(document)
    for example in examples:
        checks.add_example(example)
    assert checks.summary()["leaks"]["num_documents"] == 0


def test_a_real_story_in_html_is_refused(shared):
    _, examples, rejects = prepare({"test": read(shared / "data" / "quality" / "quality_example_html.jsonl")})
    assert examples == []
    assert "use QuALITY.v1.0.1.htmlstripped" in rejects["test, line 1"]
