"""nq-oracle and squad: every question over contexts of the wanted sizes, whose other passages hold no answer of it."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.text import has_answer
from pipeline.data import load
from pipeline.data.benchmarks import passages
from pipeline.data.checks import BenchmarkChecks
from pipeline.data.splits import OfficialFiles
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError, DataError

SIZES = {"train": [2], "dev": [2], "test": [2, 3]}


def nq_line(question, answers, title, text, **more):
    passage = {"title": title, "text": text, "isgold": True, "hasanswer": True}
    return {"question": question, "answers": answers, "ctxs": [passage], **more}


def nq_lines(num):
    """`num` questions, each about a passage that holds its answer; passages 2n and 2n + 1 share a word with both."""
    return [
        nq_line(f"who won race {n} of y{n // 2}", [f"winner{n}"], f"Article {n}", f"In y{n // 2} winner{n} won.")
        for n in range(num)
    ]


def squad_file(*articles):
    return [{"version": "v2.0", "data": list(articles)}]


def article(title, *paragraphs):
    return {"title": title, "paragraphs": [{"context": text, "qas": list(asked)} for text, *asked in paragraphs]}


def asked(name, question, *answers, **more):
    return {"id": name, "question": question, "answers": [{"text": a, "answer_start": 0} for a in answers], **more}


def shared_words(documents, questions):
    """Score a passage by the words that it shares with a question."""

    def scores(questions):
        words = [set(f"{found.title} {found.text}".lower().split()) for found in documents]
        return np.array(
            [[len(words_of & set(question.split())) for words_of in words] for question in questions], float
        )

    return scores


def build(read, lines, *, name="nq-oracle", share=False, sizes=SIZES, rank=shared_words, first=False, **changes):
    """Documents by id, examples, rejects; `lines` holds the lines of each split."""
    places = {
        split: [(f"{split}, line {number}", line) for number, line in enumerate(found, start=1)]
        for split, found in lines.items()
    }
    rejects = {}
    files = OfficialFiles(places, rejects.setdefault, **{"seed": 1} | changes)
    found = passages.benchmark(
        read, name, files, num_documents=sizes, share_contexts=share, same_article_first=first, rank=rank
    )
    return {document.document_id: document for document in found.documents}, list(found.examples), rejects


nq = partial(build, passages.read_nq_oracle)
squad = partial(build, passages.read_squad, name="squad")


def test_a_question_gets_the_best_ranked_passages_that_hold_no_answer():
    lines = [
        nq_line("who won the race", ["Bob"], "Race", "Bob won the race."),
        nq_line("who lost the race", ["Cid"], "Loser", "Cid lost the race."),
        nq_line("who saw the race", ["Dan"], "Bob again", "Dan saw how the race went and who won: Bob."),
        nq_line("where is the sea", ["west"], "Sea", "It is in the west."),
    ]
    documents, examples, _ = nq({"test": lines}, sizes={"test": [2, 3]})
    by_id = {found.example_id: found for found in examples}
    [question_id] = {found.question_id for found in examples if found.question == "who won the race"}
    two, three = by_id[f"{question_id}-2"], by_id[f"{question_id}-3"]
    # "Bob again" shares most words, and holds the answer.
    assert {documents[name].title for name in two.document_ids} == {"Race", "Loser"}
    assert {documents[name].title for name in three.document_ids} == {"Race", "Loser", "Sea"}
    assert documents[two.gold_document_ids[0]].title == "Race"
    [evidence] = two.evidence
    assert (evidence.start, evidence.end) == (0, len("Bob won the race."))
    assert (two.benchmark, two.split, two.answers) == ("nq-oracle", "test", ["Bob"])


def test_references_that_stand_in_the_passage_come_first():
    line = nq_line("when was it", ["4 March 1990", "March 1990", "1990"], "It", "It was in March 1990.")
    _, examples, _ = nq({"test": [line, *nq_lines(3)]}, sizes={"test": [2]})
    assert examples[0].answers == ["March 1990", "1990", "4 March 1990"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (nq_line("who", ["Eve"], "", "Nobody was here."), "no answer stands in the passage, the first one is 'Eve'"),
        (
            {"question": "who", "answers": ["Bob"], "ctxs": [{"text": "Bob.", "isgold": True}, {"text": "Cid."}]},
            "holds 2 passages; this benchmark builds its contexts, so one belongs",
        ),
    ],
)
def test_a_line_that_cannot_be_asked_is_rejected(line, reason):
    _, examples, rejects = nq({"test": [line, *nq_lines(3)]})
    assert len({found.question_id for found in examples}) == 3
    assert {"test, line 1": reason}.items() <= rejects.items()


def test_articles_are_held_out_whole_and_contexts_keep_to_their_split():
    lines = [nq_line(f"who {n}", [f"winner{n}"], f"Article {n // 3}", f"Here winner{n} won.") for n in range(60)]
    documents, examples, _ = nq({"train": lines}, dev_fraction=0.2, test_fraction=0.2)
    titles = {split: set() for split in SIZES}
    for example in examples:
        titles[example.split].update(documents[name].title for name in example.document_ids)
    assert [len(titles[split]) for split in ("train", "dev", "test")] == [12, 4, 4]
    assert not titles["train"] & titles["dev"] and not (titles["train"] | titles["dev"]) & titles["test"]


def test_own_contexts_hold_the_gold_passage_at_each_place_equally_often():
    _, examples, _ = nq({"test": nq_lines(12)}, sizes={"test": [4]})
    assert Counter(found.gold_position for found in examples) == dict.fromkeys(range(4), 3)


def test_passages_that_two_questions_share_stand_once():
    lines = [nq_line(f"question {n}", ["Bob"], "Race", "Bob won the race.") for n in range(2)]
    documents, examples, _ = nq({"test": [*lines, *nq_lines(4)]}, share=True, sizes={"test": [2]})
    assert len(documents) == 5
    first, second = (found for found in examples if found.question.startswith("question"))
    assert first.document_ids == second.document_ids and first.gold_document_ids == second.gold_document_ids


def test_shared_contexts_gather_what_the_retriever_finds_alike():
    def by_topic(documents, questions):
        return lambda asked: np.array([[float(q.split()[2] == d.title.split()[0]) for d in documents] for q in asked])

    lines = [
        nq_line(f"who is {topic} {n}", [f"x{topic}{n}"], f"{topic} {n}", f"x{topic}{n}")
        for n in range(3)
        for topic in "abcd"
    ]
    documents, examples, _ = nq({"test": lines}, share=True, sizes={"test": [3]}, rank=by_topic)
    for found in examples:
        assert len({documents[name].title.split()[0] for name in found.document_ids}) == 1
    assert len({tuple(found.document_ids) for found in examples}) == 4


@st.composite
def pools(draw):
    """Passages that now and then hold the answer of another one's question."""
    num = draw(st.integers(12, 24))
    extra = draw(st.lists(st.integers(0, num - 1), min_size=num, max_size=num))
    also = draw(st.lists(st.booleans(), min_size=num, max_size=num))
    return [
        nq_line(f"who won {n}", [f"winner{n}"], f"T{n}", f"winner{n} won" + f", not winner{extra[n]}" * also[n])
        for n in range(num)
    ]


@settings(max_examples=40, deadline=None)
@given(lines=pools(), share=st.booleans(), seed=st.integers(0, 99))
def test_every_question_is_asked_once_in_each_size_and_answered_by_its_own_passage_alone(lines, share, seed):
    documents, examples, rejects = nq({"test": lines}, share=share, sizes={"test": [2, 3]}, seed=seed)
    assert rejects == {}
    assert Counter((found.question, len(found.document_ids)) for found in examples) == {
        (line["question"], size): 1 for line in lines for size in (2, 3)
    }
    checks = BenchmarkChecks()
    for document in documents.values():
        checks.add_document(document)
    for found in examples:
        checks.add_example(found)
        [gold] = found.gold_document_ids
        assert found.document_ids[found.gold_position] == gold
        holding = [name for name in found.document_ids if has_answer(documents[name].text, found.answers[0])]
        assert holding == [gold]


def test_the_same_seed_gives_the_same_contexts_and_another_one_others():
    first, again, other = (nq({"test": nq_lines(30)}, share=True, seed=seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("share", [False, True])
def test_too_few_passages_are_refused_with_the_key_to_lower(share):
    with pytest.raises(
        DataError, match=r"context of 3 documents is wanted, and split test has 2 passages; lower data\.test_documents"
    ):
        nq({"test": nq_lines(2)}, share=share)
    bob = [nq_line(f"who {n}", ["Bob"], f"T{n}", f"Bob, {n}.") for n in range(3)]
    with pytest.raises(
        DataError, match=r"split test has 1 passages that fit into the context of 'who \d' .*lower data\.test_documents"
    ):
        nq({"test": bob}, share=share, sizes={"test": [2]})


def test_a_question_that_stands_twice_is_refused():
    with pytest.raises(DataError, match=r"test, line 2: question 'nq-.*' already stands in test, line 1"):
        nq({"test": [nq_lines(1)[0], nq_lines(1)[0]]})


def test_max_questions_takes_the_first_of_each_split():
    _, examples, _ = nq({"test": nq_lines(9)}, max_questions=4, sizes={"test": [2]})
    assert [found.question for found in examples] == [line["question"] for line in nq_lines(4)]


RACE = article(
    "Race",
    ("Bob won in May.", asked("q1", "Who won?", "Bob", "Bob", "Bob won"), asked("q2", "When?", "May")),
    ("Cid came late.", asked("q3", "Who came late?", "Cid")),
    (
        "Dan saw it.",
        asked("q4", "Who fell?", is_impossible=True, plausible_answers=[{"text": "Dan", "answer_start": 0}]),
    ),
)
SEA = article(
    "Sea", ("It is west.", asked("q5", "Where is it?", "west")), ("It is wide.", asked("q6", "Is it wide?", "wide"))
)


@pytest.mark.parametrize("share", [False, True])
def test_squad_takes_the_paragraphs_of_the_article_first(share):
    documents, examples, rejects = squad(
        {"test": squad_file(RACE, SEA)}, share=share, first=True, sizes={"test": [2, 3]}
    )
    assert rejects == {}
    assert Counter(found.question_id for found in examples) == {f"q{n}": 2 for n in range(1, 7)}
    for found in examples:
        titles = Counter(documents[name].title for name in found.document_ids)
        own = "Race" if found.question_id in ("q1", "q2", "q3", "q4") else "Sea"
        if not share or len(found.document_ids) == 2:
            assert titles[own] >= 2
    by_id = {found.example_id: found for found in examples}
    assert by_id["q1-2"].answers == ["Bob", "Bob won"]
    unanswerable = by_id["q4-2"]
    assert (unanswerable.answers, unanswerable.gold_document_ids, unanswerable.gold_position) == (
        ["unanswerable"],
        [],
        -1,
    )


def test_squad_v1_has_no_marks_of_impossible_questions_and_other_files_are_refused():
    lost = article("Race", ("Bob won.", asked("q1", "Who won?", "Bob"), asked("q2", "Who lost?")))
    _, examples, rejects = squad({"test": squad_file(lost, SEA)}, sizes={"test": [2]})
    assert {found.question_id for found in examples} == {"q1", "q5", "q6"}
    assert rejects == {"test, line 1, article 1, question q2": "answers is empty, and is_impossible is not true"}
    _, _, rejects = squad({"test": [{"question": "Who?"}, *squad_file(RACE, SEA)]}, sizes={"test": [2]})
    assert list(rejects) == ["test, line 1"]
    assert "is no SQuAD file; expected {" in rejects["test, line 1"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose params.yaml chooses nq-oracle over a file of ours."""

    def make(**changes):
        (tmp_path / "conf").symlink_to(config.CONF.resolve())
        (tmp_path / "own").mkdir()
        (tmp_path / "own/nq-open-oracle.jsonl.gz").write_text("\n".join(map(json.dumps, nq_lines(80))))
        files = {"train": [{"name": "nq-open-oracle.jsonl.gz"}], "dev": [], "test": []}
        data = {"source": "own", "files": files, "test_documents": [3, 5], "train_documents": [4], "dev_documents": [4]}
        params = config.read_yaml(config.PARAMS)
        params["use"]["data"], params["data"] = "nq-oracle", {**data, **changes}
        (tmp_path / "params.yaml").write_text(json.dumps(params))
        monkeypatch.chdir(tmp_path)

    return make


def test_the_retriever_of_the_settings_ranks_the_passages(project):
    project(distractors="bm25", share_contexts=False)
    benchmark = load.find(config.load("prepare").data).benchmark
    documents = {document.document_id: document for document in benchmark.documents}
    examples = list(benchmark.examples)
    assert Counter(found.split for found in examples) == {"train": 52, "dev": 10, "test": 36}
    held_by = {found.question: {documents[name].title for name in found.document_ids} for found in examples}
    pairs = [(f"who won race {n} of y{n // 2}", n ^ 1) for n in range(80)]
    titles_of = {
        split: {f"Article {found.question.split()[3]}" for found in examples if found.split == split} for split in SIZES
    }
    together = [
        (question, f"Article {n}")
        for question, n in pairs
        if any({f"Article {n}", f"Article {n ^ 1}"} <= titles for titles in titles_of.values())
    ]
    assert len(together) > 20
    assert all(title in held_by[question] for question, title in together)


def test_the_real_file_gives_the_questions_of_its_articles_to_one_split_each(shared, project):
    project(
        source=str(shared / "data/nq"),
        distractors="bm25",
        test_documents=[5, 10],
        train_documents=[10],
        dev_documents=[10],
    )
    benchmark = load.find(config.load("prepare").data).benchmark
    checks = BenchmarkChecks()
    for document in benchmark.documents:
        checks.add_document(document)
    for found in benchmark.examples:
        checks.add_example(found)
    counted = checks.summary()
    assert counted["documents"]["num_documents"] == 2588
    assert sum(split["num_questions"] for split in counted["splits"].values()) == 2655
    assert counted["splits"]["test"]["num_questions"] > 500
    assert counted["leaks"] == {"num_documents": 0, "num_questions": 0}


def test_a_bundle_that_cannot_rank_a_corpus_or_is_not_there_is_refused(project):
    project(distractors="oracle")
    with pytest.raises(ConfigError, match=r"data\.distractors is 'oracle', which ranks no corpus; choose an encoder"):
        list(load.find(config.load("prepare").data).benchmark.examples)


def test_a_bundle_that_is_not_there_is_refused(project):
    project(distractors="minilmm")
    with pytest.raises(ConfigError, match=r"params\.yaml: data\.distractors: no bundle 'minilmm' \(did you mean"):
        config.load("prepare")
