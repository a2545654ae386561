"""The stage score on a toy run: its outputs, equal bytes when it runs again, and its errors."""

import json
import shutil

import pytest
from ruamel.yaml import YAML

from pipeline.common import files, tables
from pipeline.retrieval import recall
from pipeline.runtime import config, errors, main
from pipeline.stages import score
from tests import tiny_bert
from tests.conftest import ROOT

TEXTS = {
    "d0": ["Ada Byron was born in London.", " She wrote notes on an engine."],
    "d1": ["Alan Turing was born in London."],
    "d2": ["Grace Hopper was born in New York."],
    "d3": ["Alan Turing was born in London."],
}


def chunks():
    for document_id, texts in TEXTS.items():
        start = 0
        for index, text in enumerate(texts):
            yield {
                "chunk_id": f"{document_id}#{index}",
                "document_id": document_id,
                "index": index,
                "start": start,
                "end": start + len(text),
                "title": text.split(" was")[0],
                "text": text,
            }
            start += len(text)


def example(number, split, question, answer, document_ids, gold, evidence=()):
    return {
        "example_id": f"e{number}",
        "question_id": f"q{number}",
        "benchmark": "toy",
        "split": split,
        "question": question,
        "answer_lead": "",
        "answers": [answer],
        "document_ids": document_ids,
        "gold_document_ids": gold,
        "evidence": [dict(zip(("document_id", "start", "end"), span, strict=True)) for span in evidence],
        "gold_position": document_ids.index(gold[0]) if gold else -1,
        "answer_types": [],
        "options": [],
        "gold_option": -1,
        "subset": "",
    }


EXAMPLES = [
    example(0, "train", "where was grace hopper born", "new york", ["d1", "d2"], ["d2"]),
    example(1, "test", "what did ada byron write", "notes", ["d1", "d0", "d3"], ["d0"], [("d0", 35, 45)]),
    example(2, "test", "where was alan turing born", "london", ["d2", "d3"], ["d3"]),
    example(3, "test", "where was alan turing born", "london", ["d1", "d2", "d0"], ["d1"]),
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a working folder with our conf/, toy chunks and examples, and a cache of its own."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    tables.write(tables.CHUNKS, chunks())
    tables.write(tables.EXAMPLES, EXAMPLES)
    return tmp_path


def use(retriever, **changes):
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["use"]["retriever"] = retriever
    config.PARAMS.write_text(json.dumps(params | ({"retriever": changes} if changes else {})))


def scored(retriever, **changes):
    use(retriever, **changes)
    score.main()
    return list(tables.scan(tables.SCORES)), files.read_json(score.REPORT, "score")


def written():
    return tables.SCORES.path.read_bytes(), score.REPORT.read_bytes()


def test_rows_follow_the_examples_and_chunks_the_context(project):
    rows, _ = scored("bm25")
    assert [row["example_id"] for row in rows] == ["e0", "e1", "e2", "e3"]
    assert rows[1]["chunk_ids"] == ["d1#0", "d0#0", "d0#1", "d3#0"]
    assert rows[1]["gold"] == [False, False, True, False]
    assert rows[3]["gold"] == [True, False, False, False]
    assert rows[0]["ranks"] == [1, 0]
    # Only d0#0 has words of the question; the others are equal and rank by chance.
    assert rows[1]["scores"][0] == rows[1]["scores"][2] == rows[1]["scores"][3] == 0.0 < rows[1]["scores"][1]
    assert rows[1]["ranks"][1] == 0 and sorted(rows[1]["ranks"]) == [0, 1, 2, 3]


def test_the_report_of_bm25(project):
    _, report = scored("bm25")
    splits, collection = report.pop("splits"), report.pop("collection")
    assert report == {
        "retriever": {"kind": "bm25", "k1": 1.5, "b": 0.75, "title": True},
        "num_examples": 4,
        "num_questions": 3,
        "num_chunks": 5,
        "num_unique_chunks": 4,
        "num_scores": 2 + 4 + 2 + 4,
        "encoder": None,
    }
    assert sorted(splits) == ["test", "train"]
    assert splits["train"]["all"]["recall"]["1"] == 1.0
    assert splits["train"]["all"]["answer_retention"]["1"] == 1.0
    assert splits["test"]["all"]["num_examples"] == 3
    assert sorted(splits["test"]["by_num_documents"]) == ["2", "3"]
    assert collection["num_questions"] == 3 and collection["num_chunks"] == 4
    assert collection["recall"]["5"] == 1.0


def test_controls_bracket_every_retriever_and_rank_no_collection(project):
    _, best = scored("oracle")
    _, worst = scored("worst")
    assert best["collection"] is None
    assert best["splits"]["test"]["all"]["recall"]["1"] == best["splits"]["test"]["all"]["mrr"] == 1.0
    assert worst["splits"]["test"]["all"]["recall"] == {"1": 0.0, "3": 0.333333, "5": 1.0, "7": 1.0, "10": 1.0}


def test_random_does_not_depend_on_the_order_of_the_examples(project):
    before, _ = scored("random")
    tables.write(tables.EXAMPLES, EXAMPLES[::-1])
    assert scored("random")[0] == before[::-1]


def test_the_bytes_are_the_same_with_a_cold_a_warm_and_a_half_warm_cache(project, monkeypatch, capsys):
    encoder = {"source": str(tiny_bert.save(project / "bert")), "sha256": None, "max_tokens": 32}
    _, report = scored("minilm", **encoder)
    cold = written()
    assert report["encoder"]["encodes_per_unique_chunk"] == 1.0
    assert report["retriever"]["dtype"] in ("float32", "bfloat16") and len(report["retriever"]["sha256"]) == 64
    scored("minilm", **encoder)
    assert written() == cold
    assert "0 encoded now, 4 from the cache" in capsys.readouterr().out

    monkeypatch.setenv("FOCUS_CACHE", str(project / "another cache"))
    tables.write(tables.EXAMPLES, EXAMPLES[:1])
    tables.write(tables.CHUNKS, [chunk for chunk in chunks() if chunk["document_id"] in ("d1", "d2")])
    scored("minilm", **encoder)
    tables.write(tables.EXAMPLES, EXAMPLES)
    tables.write(tables.CHUNKS, chunks())
    capsys.readouterr()
    scored("minilm", **encoder)
    assert "2 encoded now, 2 from the cache" in capsys.readouterr().out
    assert written() == cold


def test_one_line_sums_the_run_up(project, capsys):
    scored("bm25")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("score: 4 examples, 12 scores of 4 unique chunks by bm25 in ")
    assert "gold chunk on top: train 100.0%, test " in out


def test_a_failing_run_says_why_in_one_line_and_leaves_the_last_scores_whole(project, capsys):
    scored("bm25")
    before = written()
    unknown = example(9, "test", "who", "nobody", ["d1"], [])
    tables.write(tables.EXAMPLES, [*EXAMPLES, unknown])
    use("oracle")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main.run(score.main)
    assert caught.value.code == errors.DataError.exit_code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "example e9 has no known gold chunk" in said
    assert written() == before
    assert [path.name for path in tables.SCORES.path.parent.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("which", ["CHUNKS", "EXAMPLES"])
def test_nothing_to_score_is_an_error_and_not_an_empty_report(project, which):
    tables.write(getattr(tables, which), [])
    use("bm25")
    with pytest.raises(errors.DataError, match=rf"{which.lower()}\.parquet: no rows"):
        score.main()


def test_a_large_corpus_is_not_ranked(project, monkeypatch):
    monkeypatch.setattr(recall, "MAX_CORPUS", 3)
    assert scored("bm25")[1]["collection"] is None
