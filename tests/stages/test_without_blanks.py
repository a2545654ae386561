"""Own documents in Chinese go from prepare to the gate: cut, counted, searched, masked and judged like English ones."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common import files, tables
from pipeline.runtime.errors import DataError
from pipeline.stages import base, chunk, gate, mask, prepare, score, tokenize
from tests.conftest import ROOT

STAGES = (prepare, chunk, score, base, tokenize, mask, gate)
KEEPERS = "东南西北春夏秋冬"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight documents of forty sentences, and a question about one sentence in the middle of each."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "models/tiny-base", tmp_path / "models/tiny-base")
    monkeypatch.chdir(tmp_path)
    Path("input/own").mkdir(parents=True)
    documents, questions = [], []
    for number, name in enumerate(KEEPERS):
        said = f"李{name}在190{number}年成为灯塔的看守人。"
        filler = [f"第{year}年镇上的人修了一座桥。" for year in range(40)]
        documents.append({"id": name, "text": "".join([*filler[:25], said, *filler[25:]])})
        question = {
            "id": f"q{number}", "question": f"李{name}在哪一年成为看守人\uff1f", "answers": [f"190{number}年"],
            "documents": [name], "gold": [name], "evidence": [{"document": name, "text": said}], "split": "train",
        }  # fmt: skip
        questions.append(question)
    for path, rows in (("documents", documents), ("questions", questions)):
        Path(f"input/own/{path}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def choose(words: int) -> None:
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["use"] |= {"data": "jsonl", "retriever": "bm25"}
    params["chunk"]["words"], params["mask"]["top_k"] = words, 1
    Path("params.yaml").write_text(json.dumps(params))


def test_evidence_is_found_kept_and_passes_the_gate(capsys: pytest.CaptureFixture[str]):
    choose(words=100)
    for stage in STAGES:
        stage.main()
    said = capsys.readouterr().out
    # Forty sentences of twelve words (a number is one), and one of thirteen.
    assert "prepare: 8 documents (493 words on average, 493 at most)" in said
    chunks = list(tables.scan(tables.CHUNKS))
    assert len(chunks) == 8 * 6 and all(row["text"].endswith("。") for row in chunks)
    train = files.read_json(mask.SUMMARY, "mask")["splits"]["train"]
    assert (train["gold_retained"], train["answer_retained"], train["num_whole"]) == (1.0, 1.0, 0)
    assert files.read_json(gate.REPORT, "gate")["verdict"] == "passed"
    assert files.read_json(score.REPORT, "score")["splits"]["train"]["all"]["recall"]["1"] == 1.0


def test_documents_of_one_chunk_say_nothing_and_stop_at_the_gate():
    choose(words=1000)
    for stage in STAGES[:-1]:
        stage.main()
    found = files.read_json(score.REPORT, "score")
    assert found["splits"]["train"]["all"]["num_only_gold"] == 8
    assert found["splits"]["train"]["all"]["recall"]["1"] is None
    with pytest.raises(DataError, match="nothing is masked"):
        gate.main()
