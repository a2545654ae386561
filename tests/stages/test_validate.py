"""The stage validate on a toy benchmark: its rows, sizes that cut alike, the choice of examples, equal bytes."""

import json
import shutil
from dataclasses import asdict

import pytest
from ruamel.yaml import YAML

from pipeline.common import files, tables
from pipeline.common.tables import Document, Evidence, Example
from pipeline.retrieval import recall
from pipeline.runtime import config, errors
from pipeline.stages import chunk, score, validate
from tests import tiny_bert
from tests.conftest import ROOT

LONG = "Ada Byron was born in London. She wrote notes on an engine. Her father wrote verse. He left her early."
NOTES = (LONG.index("She wrote"), LONG.index(" Her"))
DOCUMENTS = [
    Document("long", "Ada Byron", LONG),
    Document("p1", "Alan Turing", "Alan Turing was born in London.", whole=True),
    Document("p2", "Grace Hopper", "Grace Hopper was born in New York.", whole=True),
    Document("p3", "Never asked about", "Grace Hopper was born in New York.", whole=True),
]


def example(number, split, question, answer, document_ids, gold, evidence=()):
    return Example(
        f"e{number}", f"q{number}", "toy", split, question, "", [answer], document_ids, gold, list(evidence),
        document_ids.index(gold[0]) if gold else -1,
    )  # fmt: skip


EXAMPLES = [
    example(0, "test", "what did ada byron write notes on", "engine", ["long"], ["long"], [Evidence("long", *NOTES)]),
    example(1, "test", "where was grace hopper born", "new york", ["p1", "p2"], ["p2"]),
    example(2, "test", "who was born in london", "turing", ["p1", "p2"], ["p1", "p2"]),
    example(3, "train", "who left", "nobody", ["long"], []),
]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Make a working folder with our conf/, a toy benchmark, and a cache of its own."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    encoder = tiny_bert.retriever(tiny_bert.save(tmp_path / "bert")).model_dump()
    (tmp_path / "conf/retriever/tiny.yaml").write_text(json.dumps(encoder))
    write(EXAMPLES)
    return tmp_path


def write(examples):
    tables.write(tables.DOCUMENTS, map(asdict, DOCUMENTS))
    tables.write(tables.EXAMPLES, map(asdict, examples))


def choose(retrievers=("bm25",), chunk_words=(6,), max_examples=None, use="bm25", words=6):
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["validation"] = {
        "retrievers": list(retrievers), "chunk_words": list(chunk_words), "max_examples": max_examples,
    }  # fmt: skip
    params["use"]["retriever"], params["chunk"]["words"] = use, words
    config.PARAMS.write_text(json.dumps(params))


def validated(**settings):
    choose(**settings)
    validate.main()
    return files.read_json(validate.REPORT, "validate")


def rows_of(report, **wanted):
    return [row for row in report["rows"] if wanted.items() <= row.items()]


def test_a_row_for_every_size_retriever_and_split():
    report = validated(retrievers=["random", "bm25"], chunk_words=[12, 6])
    assert [(row["chunk_words"], row["retriever"], row["split"]) for row in report["rows"]] == [
        (words, name, split) for words in (6, 12) for name in ("random", "bm25") for split in ("train", "test")
    ]
    assert (report["num_examples"], report["num_documents"]) == (4, 3)
    assert report["measured_as"] == {"6": 6, "12": 12}


def test_the_row_of_bm25_worked_out_by_hand():
    [row] = rows_of(validated(), split="test")
    # Each sentence of the long document is a chunk. All chunks of "who was born in london" are gold.
    assert row == {
        "retriever": "bm25",
        "chunk_words": 6,
        "split": "test",
        "num_examples": 3,
        "num_gold_known": 3,
        "num_only_gold": 1,
        "num_equal_scores": 0,
        "mean_chunks": pytest.approx(8 / 3, abs=1e-6),
        "recall": dict.fromkeys(["1", "3", "5", "7", "10"], 1.0),
        "recall_interval": {k: [1.0, 1.0] for k in ("1", "3", "5", "7", "10")},
        "all_gold": dict.fromkeys(["1", "3", "5", "7", "10"], 1.0),
        "mrr": 1.0,
        "answer_retention": dict.fromkeys(["1", "3", "5", "7", "10"], 1.0),
        "truncated_chunks": None,
        "truncated_questions": None,
        # In the whole corpus Ada Byron ties with Alan Turing, who is gold: half a hit.
        "collection": {
            "num_questions": 3,
            "num_chunks": 6,
            "recall": {"1": pytest.approx(5 / 6, abs=1e-6)} | dict.fromkeys(["5", "10", "20"], 1.0),
        },
    }


def test_unknown_gold_leaves_recall_unknown_and_answers_are_still_looked_for():
    [row] = rows_of(validated(), split="train")
    assert (row["num_gold_known"], row["mrr"], row["collection"]["recall"]["1"]) == (0, None, None)
    assert {*row["recall"].values(), *row["recall_interval"].values(), *row["all_gold"].values()} == {None}
    assert row["answer_retention"]["10"] == 0.0


def test_sizes_that_cut_alike_are_measured_once_and_said_to_be_equal(capsys):
    report = validated(chunk_words=[6, 300, 100])
    assert report["measured_as"] == {"6": 6, "100": 100, "300": 100}
    assert {row["chunk_words"] for row in report["rows"]} == {6, 100}
    assert "chunks of 6, 100, 300 (as 100) words" in capsys.readouterr().out


def test_an_interval_holds_its_share_and_spans_questions_that_differ():
    examples = [
        example(number, "test", "who was born in new york", "x", ["p1", "p2"], ["p2" if number % 3 else "p1"])
        for number in range(30)
    ]
    write(examples)
    [row] = rows_of(validated())
    low, high = row["recall_interval"]["1"]
    assert row["recall"]["1"] == pytest.approx(2 / 3, abs=1e-6)
    assert 0.4 < low < row["recall"]["1"] < high < 0.9
    assert row["recall_interval"]["3"] == [1.0, 1.0]


def test_examples_are_drawn_per_split_and_do_not_depend_on_their_order():
    many = [example(number, "dev", "who", "x", ["p1", "p2"], ["p2"]) for number in range(10, 30)]
    write([*many, *EXAMPLES])
    report = validated(retrievers=["random"], max_examples=5)
    assert [(row["split"], row["num_examples"]) for row in report["rows"]] == [("train", 1), ("dev", 5), ("test", 3)]
    write([*EXAMPLES, *many[::-1]])
    assert validated(retrievers=["random"], max_examples=5) == report


def test_documents_of_no_chosen_example_do_not_count():
    write(EXAMPLES[:1])
    report = validated()
    assert report["num_documents"] == 1 and report["rows"][0]["collection"]["num_chunks"] == 4


def test_the_controls_and_a_large_corpus_have_no_corpus_metrics(monkeypatch):
    assert {row["collection"] for row in validated(retrievers=["random", "random"])["rows"]} == {None}
    monkeypatch.setattr(recall, "MAX_CORPUS", 5)
    assert {row["collection"] for row in validated()["rows"]} == {None}


def test_fusion_and_its_encoder_encode_once_and_a_warm_run_writes_the_same_bytes(project):
    bundle = YAML(typ="safe").load(project / "conf/retriever/fusion.yaml")
    bundle |= {"source": str(project / "bert"), "sha256": None, "max_tokens": 32, "similarity": "dot"}
    (project / "conf/retriever/both.yaml").write_text(json.dumps(bundle))
    first = validated(retrievers=["tiny", "both"], chunk_words=[6, 12])
    cold = validate.REPORT.read_bytes()
    assert {row["truncated_chunks"] for row in first["rows"]} != {None}
    cache = project / "cache"
    before = {path: path.read_bytes() for path in cache.iterdir()}
    assert validated(retrievers=["tiny", "both"], chunk_words=[6, 12]) == first
    assert validate.REPORT.read_bytes() == cold
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


@pytest.mark.parametrize("name", ["bm25", "tiny", "random", "fusion"])
def test_the_size_and_retriever_in_use_measure_what_score_measures(name, project, capsys):
    """On the same examples and chunks, it agrees with the stages chunk and score, which have nothing left to encode."""
    if name == "fusion":
        bundle = YAML(typ="safe").load(project / "conf/retriever/fusion.yaml")
        bundle |= {"source": str(project / "bert"), "sha256": None, "max_tokens": 32}
        (project / "conf/retriever/fusion.yaml").write_text(json.dumps(bundle))
    write([*EXAMPLES, example(4, "test", "who", "x", ["p3"], ["p3"])])  # every document is asked about
    report = validated(retrievers=[name], use=name)
    chunk.main()
    capsys.readouterr()
    score.main()
    said = capsys.readouterr().out
    assert "encoded now" not in said or " 0 encoded now" in said
    scored = files.read_json(score.REPORT, "score")
    for row in report["rows"]:
        assert scored["splits"][row["split"]]["all"].items() <= row.items()
    [test] = rows_of(report, split="test")
    assert (test["collection"] is None) == (scored["collection"] is None) == (name == "random")
    if scored["encoder"]:
        assert test["truncated_chunks"] == scored["encoder"]["truncated_chunks"]


def test_one_line_tells_what_each_retriever_reaches(capsys):
    validated(retrievers=["bm25", "random"], max_examples=2)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("validate: 3 examples, 2 retrievers, chunks of 6 words in ")
    # Without a dev split the line tells of train, as settings are chosen there.
    assert out.endswith("gold chunk among the best 5 at 6 words, train: bm25 unknown, random unknown\n")


def test_nothing_to_rank_is_an_error_and_not_an_empty_report():
    write([])
    with pytest.raises(errors.DataError, match=r"examples\.parquet: no rows"):
        validated()
    assert not validate.REPORT.exists()


def test_a_retriever_that_needs_gold_says_which_example_has_none():
    with pytest.raises(errors.DataError, match="retriever oracle: example e3 has no known gold chunk"):
        validated(retrievers=["oracle"])
