"""The stage on a toy base: its figures against plain forwards over whole prompts, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.analysis import attention, inputs, representations
from pipeline.common import files, tables
from pipeline.evaluation import predict, schema
from pipeline.runtime.errors import ArtifactError, DataError
from pipeline.stages import analyze, mask
from tests.analysis.test_attention import eager_last_row
from tests.model import tiny
from tests.stages import test_evaluate

toy = test_evaluate.toy


@pytest.fixture
def answered(toy, monkeypatch):
    """Views, and answers of the base, which also stand there under another name."""
    monkeypatch.setattr(analyze, "METHODS", ("base",))
    test_evaluate.run_stage(monkeypatch, "base")
    mask.main()
    shutil.copy(schema.PREDICTIONS.path / "base.parquet", schema.PREDICTIONS.path / "by-hand.parquet")
    return toy


def read() -> dict:
    return json.loads(analyze.ANALYSIS.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no number"))


def longest(toy) -> list[tuple[dict, dict]]:
    masked = list(tables.scan(tables.MASKED_VIEWS))
    rows = zip(toy.full, masked, strict=True)
    return [pair for pair in rows if pair[0]["num_documents"] == 6 and pair[0]["split"] == "test"]


def test_representations_are_those_of_the_whole_prompts(answered):
    analyze.main()
    network = tiny.network()

    def last(row):
        ids = torch.tensor([row["input_ids"][: row["prompt_end"]]])
        with torch.inference_mode():
            return network.model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, -1]

    chosen = longest(answered)
    expected = representations.align(*(torch.stack([last(row) for row in side]) for side in zip(*chosen, strict=True)))
    found = read()
    assert found["num_examples"] == len(chosen) == 12 and found["num_documents"] == 6
    base = found["methods"]["base"]
    assert {name: base[name] for name in expected._fields} == pytest.approx(expected._asdict(), abs=1e-5)
    assert base["matching"]["own"]["mean"] == pytest.approx(base["in_batch_accuracy"])
    assert base["matching"]["same_context"]["num_candidates"] == 4
    for name, interval in base["intervals"].items():
        assert interval["low"] <= interval["mean"] == base[name] <= interval["high"]


def test_attention_is_that_of_the_eager_maps_where_gold_is_known(answered):
    analyze.main()
    shares = {role: [] for role in attention.ROLES}
    for full, _ in longest(answered):
        if full["gold_position"] < 0:
            continue
        row_NL = eager_last_row(tiny.network(), full["input_ids"][: full["prompt_end"]])
        gold = full["gold_position"]
        # No two documents of the toy have a word of their titles in common.
        chunks = [
            row_NL[:, start:end].sum(axis=1)
            for start, end in zip(full["chunk_starts"], full["chunk_ends"], strict=True)
        ]
        shares["gold"].append(chunks[gold])
        shares["namesake"].append(np.zeros(2))
        shares["other"].append(sum(chunks) - chunks[gold])
        shares["rest"].append(1 - sum(chunks))
    found = read()["methods"]["base"]["attention"]
    assert found["num_examples"] == len(shares["gold"]) == 11
    for role, values in shares.items():
        expected = np.mean(values, axis=0)
        assert [layer[role]["mean"] for layer in found["layers"]] == pytest.approx(expected, abs=1e-5)
        assert found["all_layers"][role]["mean"] == pytest.approx(expected.mean(), abs=1e-5)
    assert found["by_gold_position"]["gold"]["num_examples"] == 11


def test_every_file_of_predictions_has_its_kinds_of_answers_and_its_bias(answered):
    analyze.main()
    found = read()
    assert list(found["methods"]) == ["base"] and list(found["answers"]) == ["base", "by-hand"]
    assert found["answers"]["base"] == found["answers"]["by-hand"]
    rows = [
        row
        for row in tables.scan(schema.predictions_of("base"))
        if row["input"] == "full" and row["num_documents"] == 6
    ]
    errors = found["answers"]["base"]["errors"]
    assert errors["num_examples"] == len(rows) == 12
    for kind in ("correct", "distraction"):
        assert errors[kind]["mean"] == pytest.approx(sum(row["error"] == kind for row in rows) / 12, abs=1e-6)
    finer = ("in_gold", "in_context", "hallucinated", "no_answer", "wrong_option")
    other = sum(row["error"] == "other" for row in rows) / 12
    assert sum(errors[kind]["mean"] for kind in finer) == pytest.approx(other, abs=1e-5)


def test_equal_runs_write_equal_bytes(answered):
    analyze.main()
    before = analyze.ANALYSIS.read_bytes()
    analyze.main()
    assert analyze.ANALYSIS.read_bytes() == before


def test_where_no_gold_chunk_is_known_there_is_no_attention_to_it(answered):
    rows = [{**row, "gold": [False] * len(row["gold"])} for row in answered.scores]
    tables.write(tables.SCORES, rows)
    mask.main()
    for path in schema.PREDICTIONS.path.glob("*.parquet"):
        answers = schema.PREDICTIONS.at(path)
        tables.write(answers, list(tables.scan(answers)), sources=predict.sources({"retrieval": 2}))
    analyze.main()
    assert read()["methods"]["base"]["attention"] is None


def test_a_missing_answer_is_named_and_the_last_analysis_stays(answered):
    files.write_text(analyze.ANALYSIS, "before")
    path = schema.PREDICTIONS.path / "by-hand.parquet"
    rows = [row for row in tables.scan(schema.PREDICTIONS.at(path)) if row["example_id"] != "e2"]
    tables.write(schema.PREDICTIONS.at(path), rows)
    with pytest.raises(ArtifactError, match=r"by-hand.parquet: has no answer to example e2 .*evaluate@by-hand"):
        analyze.main()
    assert analyze.ANALYSIS.read_text() == "before"


def test_scores_of_other_chunks_are_refused(answered):
    rows = [{**row, "chunk_ids": list(reversed(row["chunk_ids"]))} for row in answered.scores]
    tables.write(tables.SCORES, rows)
    with pytest.raises(ArtifactError, match=r"masked.parquet: was made from scores with digest"):
        analyze.main()


def test_a_single_example_has_nothing_to_be_compared_with(answered):
    with pytest.raises(DataError, match="1 found; give at least 2"):
        inputs.first(inputs.longest("train"), 8)


def test_an_empty_split_is_named(answered):
    with pytest.raises(DataError, match=r"no examples in split dev; choose another eval\.split"):
        inputs.longest("dev")


def test_a_window_that_hides_gold_tokens_says_so_and_lowers_no_attention(toy, monkeypatch):
    path, window = Path("params.yaml"), 24
    params = test_evaluate.yaml.load(path.read_text())
    params["model"]["sliding_window"] = window
    test_evaluate.yaml.dump(params, path)
    for number, row in enumerate(toy.scores):  # the gold chunk first or last in its context
        row["gold"] = [place == (0 if number % 4 else len(row["gold"]) - 1) for place in range(len(row["gold"]))]
    tables.write(tables.SCORES, toy.scores)
    monkeypatch.setattr(analyze, "METHODS", ("base",))
    test_evaluate.run_stage(monkeypatch, "base")
    mask.main()
    analyze.main()
    hidden = []
    for full, _ in longest(toy):
        number = int(full["example_id"][1:])
        place = 0 if number % 4 else 5
        tokens = np.arange(full["chunk_starts"][place], full["chunk_ends"][place])
        hidden.append(float((tokens < full["prompt_end"] - window).mean()))
    assert 0.0 in hidden and 1.0 in hidden
    for layer in read()["methods"]["base"]["attention"]["layers"]:
        assert layer["window"] == window
        assert layer["gold_out_of_reach"] == pytest.approx(np.mean(hidden), abs=1e-6)
        assert layer["num_examples"] == hidden.count(0.0)
        assert layer["gold"]["mean"] > 0.1
        assert sum(layer[role]["mean"] for role in attention.ROLES) == pytest.approx(1.0, abs=1e-5)
