"""Natural Questions: records with a context are taken as they are, contexts built by us hold clean distractors, and
nothing that is asked in test is trained on.
"""

import gzip
import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.tables import Evidence
from pipeline.common.text import has_answer, tokens
from pipeline.data.benchmarks import nq
from pipeline.data.benchmarks.nq import Passage, PassageCollection
from pipeline.data.splits import SPLITS, OfficialFiles
from pipeline.runtime.errors import DataError


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


SOUND = [
    passage("Flo swam the sound in 1990.", "Swim"),
    passage("In 1991 Gus swam the sound.", "Swim"),
    passage("Hal swam in 1992, as he said.", "Sound swim"),
    passage("To the sound came Ida, and Flo.", ""),
    passage("The lake is in the east.", "Lake"),
]


def ask(question, *references):
    return {"question": question, "answer": list(references)}


SWIMS = [
    ask("who swam the sound in 1990", "Flo"),
    ask("who swam the sound in 1991", "Gus"),
    ask("who swam the sound in 1992", "Hal"),
    ask("who came to the sound", "Ida"),
    ask("where is the lake", "east"),
]


def numbered(name, values):
    return [(f"{name}, line {number}", value) for number, value in enumerate(values, start=1)]


def prepare(test, *, passages=(), train=(), dev=(), **changes):
    """Texts by document id, examples, rejects, what was left out."""
    own = {"num_documents": [2], "gold_position": "first"}
    own |= {name: changes.pop(name) for name in own if name in changes}
    parts = {"train": train, "dev": dev, "test": test, "passages": passages}
    lines = {part: numbered(part, values) for part, values in parts.items()}
    rejects = {}
    files = OfficialFiles(lines, rejects.setdefault, **{"seed": 1} | changes)
    found = nq.benchmark(files, **own)
    return (
        {document.document_id: document for document in found.documents},
        list(found.examples),
        rejects,
        files.left_out,
    )


def texts(example, documents):
    return [documents[name].text for name in example.document_ids]


def test_distractors_rank_by_bm25_and_hold_no_answer():
    documents, examples, *_ = prepare(ORACLE, num_documents=[3])
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
    documents, examples, *_ = prepare([*ORACLE[:4], titled, asked], num_documents=[3])
    assert ("The race of Ann." in texts(examples[-1], documents)) == stands


def test_the_gold_text_under_another_title_is_no_distractor():
    twin = record("who else won", "Bea", passage("ann won  the race in 1990.", "Sports", isgold=True))
    asked = record("who won the race in 1990", "the twin", passage("Ann won the race in 1990.", "Race", isgold=True))
    documents, examples, *_ = prepare([asked, *ORACLE[1:], twin], num_documents=[5])
    assert "ann won  the race in 1990." not in texts(examples[0], documents)


@pytest.mark.parametrize(("where", "place"), [("first", 0), ("middle", 1), ("last", 3)])
def test_the_gold_passage_stands_where_it_was_asked_for(where, place):
    documents, examples, *_ = prepare(ORACLE, num_documents=[4], gold_position=where)
    for example, source in zip(examples, ORACLE, strict=True):
        gold = source["ctxs"][0]["text"]
        assert texts(example, documents)[place] == gold
        assert example.gold_position == place
        assert example.gold_document_ids == [example.document_ids[place]]
        assert example.evidence == [Evidence(example.document_ids[place], 0, len(gold))]


def test_larger_contexts_hold_the_distractors_of_smaller_ones_in_the_same_order():
    _, examples, *_ = prepare(ORACLE, num_documents=[2, 3, 4], gold_position="spread")
    of_first = [
        [name for name in example.document_ids if name not in example.gold_document_ids] for example in examples[:3]
    ]
    assert [len(found) for found in of_first] == [1, 2, 3]
    assert of_first[2][:1] == of_first[0]
    assert of_first[2][:2] == of_first[1]
    assert len({example.question_id for example in examples[:3]}) == 1
    assert len({example.example_id for example in examples}) == 15


def test_records_with_a_context_are_taken_as_they_are():
    full = record(
        "who sang", "Eve",
        passage("Eve did not sing.", "A", hasanswer=True, isgold=False, id="12", score=1.5),
        passage("Eve sang.", "B", hasanswer=True, isgold=True),
        passage("All sang.", "C", hasanswer=False, isgold=False),
    )  # fmt: skip
    documents, [example], rejects, _ = prepare([full], num_documents=[10])
    assert texts(example, documents) == ["Eve did not sing.", "Eve sang.", "All sang."]
    assert (example.gold_position, example.split, example.benchmark, example.answers) == (1, "test", "nq", ["Eve"])
    assert rejects == {}


def test_the_same_question_with_its_gold_passage_elsewhere_is_another_example_of_one_question():
    gold, other = passage("Eve sang.", "B", isgold=True), passage("All sang.", "C", isgold=False)
    documents, examples, *_ = prepare([record("who sang", "Eve", gold, other), record("who sang", "Eve", other, gold)])
    assert len(documents) == 2
    assert [example.gold_position for example in examples] == [0, 1]
    assert len({example.question_id for example in examples}) == 1
    assert len({example.example_id for example in examples}) == 2


def test_retrieved_contexts_may_lack_the_gold_passage():
    _, [example], *_ = prepare([record("who sang", "Eve", passage("A."), passage("B."))])
    assert (example.gold_position, example.gold_document_ids, example.evidence) == (-1, [], [])


def test_max_questions_counts_questions_not_examples():
    documents, examples, *_ = prepare(ORACLE, num_documents=[2, 3], max_questions=2)
    assert [example.question for example in examples] == [ORACLE[0]["question"]] * 2 + [ORACLE[1]["question"]] * 2
    assert set(documents) == {name for example in examples for name in example.document_ids}


def test_the_same_settings_give_the_same_and_another_seed_does_not():
    drawn = [prepare(ORACLE, num_documents=[4], gold_position="spread", seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_too_few_passages_are_named():
    with pytest.raises(DataError, match=r"needs 9 distractors, the collection has 3 passages without an answer; lower"):
        prepare(ORACLE, num_documents=[10])


def test_a_record_that_stands_twice_is_named():
    with pytest.raises(
        DataError, match=r"test, line 6: 'who won the race in 1990' over 2 documents .* stands in test, line 1"
    ):
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
    _, _, rejects, _ = prepare([*ORACLE, bad])
    assert list(rejects) == ["test, line 6"]
    assert reason in rejects["test, line 6"]


def test_gold_of_an_open_question_is_the_best_passage_that_holds_an_answer_and_distractors_hold_none():
    documents, [of_flo, of_hal], _, left_out = prepare(
        [], passages=SOUND, train=[SWIMS[0], ask("who swam in the sound in 1990", "Hal")], num_documents=[3]
    )
    # Ida's passage ranks before Hal's for Flo's question, but names her.
    assert texts(of_flo, documents) == [SOUND[0]["text"], SOUND[1]["text"], SOUND[2]["text"]]
    assert texts(of_hal, documents) == [SOUND[2]["text"], SOUND[0]["text"], SOUND[1]["text"]]
    assert (of_hal.split, of_hal.gold_document_ids) == ("train", of_hal.document_ids[:1])
    assert of_hal.evidence == [Evidence(of_hal.document_ids[0], 0, len(SOUND[2]["text"]))]
    assert all(document.whole for document in documents.values())
    assert left_out == Counter()


def test_the_reference_that_is_trained_on_stands_in_the_gold_passage():
    _, [example], *_ = prepare([], passages=SOUND, train=[ask("who swam the sound", "Florence", "Flo", "Gus")])
    assert example.answers == ["Flo", "Florence", "Gus"]


def test_a_question_without_a_gold_passage_is_left_out_and_counted_once():
    nobody = ask("who swam the sound in 1989", "Jon")
    _, examples, rejects, left_out = prepare([], passages=SOUND, train=[nobody, *SWIMS[:2]])
    assert [example.question for example in examples] == [found["question"] for found in SWIMS[:2]]
    assert left_out == Counter({"questions without a gold passage": 1})
    assert rejects == {}


def test_what_is_asked_in_test_is_not_in_train_or_dev_and_what_is_asked_in_dev_not_in_train():
    own = passage("Gus, not Flo.", isgold=True), passage("Nobody.")
    _, examples, _, left_out = prepare(
        ORACLE,
        passages=SOUND,
        train=[
            SWIMS[0],
            ask("Who won the  RACE in 1990 ?", "Flo"),
            record("where is the sea?", "Gus", *own),
            ask("Where is the lake", "east"),
            ask("who swam the sound in 1990?", "Hal"),
        ],
        dev=[SWIMS[4], ask("who won the race in 1991?", "Gus")],
    )
    asked = [(example.split, example.question) for example in examples if example.split != "test"]
    assert asked == [("train", SWIMS[0]["question"]), ("dev", SWIMS[4]["question"])]
    assert sum(example.split == "test" for example in examples) == len(ORACLE)
    assert left_out == Counter({"questions asked in test": 3, "questions asked in dev": 1, "questions asked before": 1})


def test_a_passage_of_a_test_record_is_in_no_context_of_train():
    again = passage("in 1990 ANN swam  the sound .", "Other")
    asked = {"passages": [*SOUND, again], "train": [SWIMS[0]]}
    of_test = record("who swam", "Ann", passage("In 1990 Ann swam the sound.", isgold=True), passage("No."))
    documents, [alone], _, left_out = prepare([], **asked)
    assert again["text"] in texts(alone, documents)
    assert left_out == Counter()
    documents, examples, _, left_out = prepare([of_test], **asked)
    assert texts(examples[0], documents) == [SOUND[0]["text"], SOUND[1]["text"]]
    assert left_out == Counter({"passages of test records": 1})


def test_a_question_of_train_or_dev_is_asked_once_with_the_sizes_by_turn_and_one_of_test_in_every_size():
    _, examples, *_ = prepare(
        [ask("who swam", "Flo")], passages=SOUND, train=SWIMS[:3], dev=SWIMS[3:], num_documents=[2, 3]
    )
    sizes = [(example.split, len(example.document_ids)) for example in examples]
    assert sizes == [("train", 2), ("train", 3), ("train", 2), ("dev", 2), ("dev", 3), ("test", 2), ("test", 3)]


def many(count):
    """Questions with one gold passage each, and their passages."""
    asked = [ask(f"where does person {number} live", f"town {number}") for number in range(count)]
    return asked, [passage(f"Person {number} lives in town {number}.") for number in range(count)]


def test_gold_passages_of_train_are_spread_within_each_size():
    asked, passages = many(30)
    _, examples, *_ = prepare([], passages=passages, train=asked, num_documents=[2, 3], gold_position="spread")
    places = Counter((len(example.document_ids), example.gold_position) for example in examples)
    assert sorted(places) == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    for size in (2, 3):
        counts = [count for (of_size, _), count in places.items() if of_size == size]
        assert max(counts) - min(counts) <= 1


def test_held_out_questions_are_whole_shares_of_what_is_not_asked_elsewhere():
    asked, passages = many(25)
    of_test = [{**asked[0], "ctxs": [passages[0] | {"isgold": True}, passage("No.")], "answers": ["town 0"]}]
    shares = {"dev_fraction": 0.25, "test_fraction": 0.125, "num_documents": [2, 3]}
    _, examples, _, left_out = prepare(of_test, passages=passages, train=asked, **shares)
    questions = Counter(
        {split: len({found.question for found in examples if found.split == split}) for split in SPLITS}
    )
    assert questions == {"train": 15, "dev": 6, "test": 4}
    assert Counter(example.split for example in examples) == {"train": 15, "dev": 6, "test": 7}
    assert left_out == Counter({"questions asked in test": 1, "passages of test records": 1})


def test_max_questions_counts_those_with_a_gold_passage_in_each_split_and_no_more_are_scored(monkeypatch):
    asked, passages = many(20)
    asked[1]["answer"] = ["nowhere"]
    scored = []
    scores = nq.PassageCollection.scores
    monkeypatch.setattr(
        nq.PassageCollection, "scores", lambda self, questions: scored.extend(questions) or scores(self, questions)
    )
    found = {}
    for size in (2, 64):
        monkeypatch.setattr(nq, "QUESTIONS_PER_BLOCK", size)
        scored.clear()
        found[size] = prepare([], passages=passages, train=asked, dev=asked[15:], max_questions=3)
        num_scored = len(scored)
        # Documents and examples are two iterations: no question is scored twice.
        assert len(set(scored)) == num_scored
        if size == 2:
            assert num_scored == 8
    assert found[2] == found[64]
    _, examples, _, left_out = found[2]
    assert [example.question.split()[3] for example in examples] == ["0", "2", "3", "15", "16", "17"]
    assert left_out == Counter({"questions asked in dev": 5, "questions without a gold passage": 1})


def test_records_of_train_keep_their_context_and_one_with_its_gold_passage_alone_gets_distractors_of_the_collection():
    whole = record("who sang", "Eve", passage("All sang."), passage("Eve sang.", isgold=True))
    alone = record("who swam in 1992", "Gus", passage("Only Gus.", isgold=True))
    documents, examples, *_ = prepare(ORACLE, passages=SOUND, train=[whole, alone])
    assert [texts(example, documents) for example in examples[:2]] == [
        ["All sang.", "Eve sang."],
        ["Only Gus.", SOUND[2]["text"]],
    ]
    assert [example.split for example in examples[:2]] == ["train", "train"]


@pytest.mark.parametrize("passages", [[], [ORACLE[0]["ctxs"][0]]])
def test_questions_without_a_collection_are_named(passages):
    reason = rf"data.passages gives {len(passages)} passages, and none .* name its files there"
    with pytest.raises(DataError, match=reason):
        prepare(ORACLE, passages=passages, train=SWIMS)


def test_a_bad_passage_and_a_bad_question_are_rejected_with_their_reasons():
    lost = {"question": "who", "answers": ["Flo"]}
    _, examples, rejects, _ = prepare([], passages=[*SOUND, {"title": "Lake"}], train=[*SWIMS, lost, ["who"]])
    assert len(examples) == len(SWIMS)
    assert rejects == {
        "train, line 6": "answer is missing (rename answers?)",
        "train, line 7": 'expected an object {...}, found ["who"]',
        "passages, line 6": "text is missing",
    }


WORDS = st.sampled_from("flo gus hal swam sound lake 1990 Flo. é".split())
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
COLLECTIONS = st.lists(st.builds(passage, TEXTS, st.just("") | WORDS), min_size=1, max_size=12)
ASKED = st.lists(st.builds(ask, TEXTS, WORDS, WORDS), min_size=1, max_size=6)


@given(COLLECTIONS, ASKED)
def test_every_built_context_holds_one_gold_passage_with_an_answer_and_distinct_ones_without(passages, asked):
    # Enough that hold no answer, whatever is drawn.
    spare = [passage(f"none {number}") for number in range(3)]
    documents, examples, rejects, left_out = prepare(
        [], passages=[*passages, *spare], train=asked, num_documents=[2, 4], gold_position="spread"
    )
    assert len(examples) + left_out.total() == len(asked)
    assert rejects == {}
    for example in examples:
        found = [documents[name] for name in example.document_ids]
        assert len({tokens(document.text) for document in found}) == len(found)
        assert has_answer(found[example.gold_position].text, example.answers[0])
        for document in found[: example.gold_position] + found[example.gold_position + 1 :]:
            assert not any(has_answer(f"{document.title} | {document.text}", word) for word in example.answers)


def read_oracle(shared):
    with gzip.open(shared / "data/nq/nq-open-oracle.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_the_real_questions_get_clean_contexts_of_ten_twenty_and_thirty(shared):
    records = read_oracle(shared)
    documents, examples, rejects, _ = prepare(records, num_documents=[10, 20, 30], gold_position="spread")
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
                assert not any(has_answer(f"{found.title} | {found.text}", answer) for answer in example.answers)


def test_no_real_test_question_is_trained_on(shared):
    # NQ's dev side stands in for NQ-open.train, which is too large to be kept beside a checkout: all 2,655 questions of
    # the oracle file are among its 3,610.
    with (shared / "data/nq/NQ-open.dev.jsonl").open(encoding="utf-8") as file:
        train = [json.loads(line) for line in file]
    passages = json.loads((shared / "data/text/2wikimultihopqa_corpus.json").read_text(encoding="utf-8"))
    oracle = read_oracle(shared)
    settings = {"num_documents": [10, 20, 30], "gold_position": "spread", "dev_fraction": 0.02}
    documents, examples, rejects, left_out = prepare(oracle, passages=passages, train=train, **settings)
    assert rejects == {}
    assert left_out == Counter({"questions asked in test": 2_655, "questions without a gold passage": 765})
    assert Counter(example.split for example in examples) == {"train": 183, "dev": 7, "test": 3 * 2_655}
    asked = {record["question"] for record in oracle}
    of_test = {record["ctxs"][0]["text"] for record in oracle}
    for example in examples[:190]:
        assert example.question not in asked
        assert not of_test & set(texts(example, documents))
        for name in example.document_ids:
            text = documents[name].text
            assert any(has_answer(text, answer) for answer in example.answers) == (name in example.gold_document_ids)
    sizes = Counter(len(example.document_ids) for example in examples if example.split == "train")
    assert sizes == {10: 61, 20: 61, 30: 61}


# The parts of a built context: the ranking, the gold passage found in it, and its place


@pytest.mark.parametrize("num_documents", [1, 2, 10, 30])
def test_spread_gives_each_place_equally_often_in_a_drawn_order(num_documents):
    places = [nq.position_of_gold("spread", num_documents, question, seed=1) for question in range(20 * num_documents)]
    assert set(Counter(places).values()) == {20}
    assert set(places) == set(range(num_documents))
    if num_documents > 2:
        assert places != [
            nq.position_of_gold("spread", num_documents, question, seed=2) for question in range(len(places))
        ]


@given(st.lists(st.integers(-3, 3)), st.integers(1, 12), st.integers(0, 40))
def test_the_best_come_first_and_equal_ones_in_order_however_few_are_likely(scores, num_likely, num_read):
    scores_N = np.array(scores, dtype=np.float32)
    found = list(islice(nq.best_first(scores_N, num_likely), num_read))
    assert found == np.argsort(-scores_N, kind="stable").tolist()[:num_read]


def scored(*texts, title=""):
    collection = PassageCollection([Passage(title=title, text=text) for text in texts])
    return collection, collection.scores(["where is the lake"])[0]


def test_gold_is_the_best_passage_whose_text_holds_any_of_the_answers():
    collection, scores_N = scored("The east.", "Where is the lake?", "The lake is in the East.", "The lake is west.")
    assert collection.gold(["east"], scores_N).text == "The lake is in the East."
    assert collection.gold(["eas"], scores_N) is None
    assert {collection.gold([*pair], scores_N).text for pair in (("west", "east"), ("east", "west"))} == {
        "The lake is west."
    }


def test_an_answer_in_the_title_makes_a_passage_neither_gold_nor_a_distractor():
    collection, scores_N = scored("The lake.", "The sea.", title="East")
    assert collection.gold(["east"], scores_N) is None
    own = Passage(text="It is east.")
    assert collection.distractors("where is the lake", ["east"], own, scores_N, 0) == []
    with pytest.raises(DataError, match=r"'where is the lake' needs 1 distractors, the collection has 0 passages"):
        collection.distractors("where is the lake", ["east"], own, scores_N, 1)


@pytest.mark.parametrize(("num_better", "found"), [(99, True), (100, False)])
def test_gold_is_looked_for_among_the_first_hundred(num_better, found):
    collection, scores_N = scored(*(f"Where is the lake {number}" for number in range(num_better)), "In the east.")
    assert (collection.gold(["east"], scores_N) is not None) == found


def test_distractors_go_on_behind_the_first_hundred():
    texts = [f"Where is the lake {number}, is it east" for number in range(120)]
    collection, scores_N = scored(*texts, "North.", "South.")
    chosen = collection.distractors("where is the lake", ["east"], Passage(text="It is east."), scores_N, 2)
    assert [passage.text for passage in chosen] == ["North.", "South."]


# Lines of both formats become one kind of question

GOLD = {"title": "Sea", "text": "The sea is in the west.", "isgold": True}


def read_lines(*values):
    rejects = {}
    found = list(nq.questions([(f"line {place}", value) for place, value in enumerate(values)], rejects.setdefault))
    assert rejects == {}
    return found


def test_a_line_with_passages_is_a_record_and_one_without_an_open_question():
    record, asked = read_lines(
        {"question": "where is the sea", "answers": ["west"], "ctxs": [GOLD | {"id": "7", "hasanswer": True}]},
        {"question": "where is the lake", "answer": ["east", "the east"]},
    )
    assert (record.place, record.text, record.answers) == ("line 0", "where is the sea", ["west"])
    assert [(passage.title, passage.text, passage.isgold) for passage in record.passages] == [tuple(GOLD.values())]
    assert (asked.place, asked.answers, asked.passages) == ("line 1", ["east", "the east"], [])


@pytest.mark.parametrize(
    ("wording", "same"),
    [
        ("Where is  the Sea?", True),
        (" where is the sea ??\n", True),
        ("where is? the sea", False),
        ("where is the seas", False),
    ],
)
def test_case_blanks_and_final_question_marks_make_no_other_question(wording, same):
    first, second = read_lines(*({"question": text, "answer": ["west"]} for text in ("where is the sea", wording)))
    assert (first.question_id == second.question_id) == same


def test_the_survey_knows_who_asks_last_and_what_the_test_files_carry():
    lake = {"text": "The lake.", "isgold": True}
    alone = {"question": "where is the sea", "answers": ["west"], "ctxs": [GOLD]}
    whole = {"question": "where is the lake", "answers": ["east"], "ctxs": [lake, {"text": "A hill."}]}
    asked = {"question": "Where is the lake?", "answer": ["east"]}
    files = {"train": [("a", asked), ("b", alone)], "dev": [("c", whole | {"question": "how"})], "test": [("d", whole)]}
    found = nq.survey(OfficialFiles(files, pytest.fail, seed=1))
    assert list(found.owner_of.values()) == ["test", "train", "dev"]
    assert found.test_gold == []
    assert found.test_texts == {nq.text_digest(nq.Passage(text=text)) for text in ("the lake .", "A  Hill.")}
    again = nq.survey(OfficialFiles({"test": [("d", alone), ("e", alone), ("f", whole)]}, pytest.fail, seed=1))
    assert [passage.text for passage in again.test_gold] == [GOLD["text"]]
