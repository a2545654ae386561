"""The whole graph at toy size, stage by stage in one process, over a tiny random model of each family of bases."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.common import base_card, tables
from pipeline.model import loading
from pipeline.runtime import config, methods
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.stages import analyze, base, chunk, evaluate, mask, prepare, score, teach, tokenize, train
from pipeline.tools import merge
from pipeline.tools.plan import __main__ as plan
from tests.conftest import ROOT
from tests.model import families

TABLE = ROOT / "docs/bases.md"
BOS, EOS, PAD, MASK = 0, 1, 2, 3  # of the tokenizer in models/tiny-base
TOY: dict[str, dict[str, Any]] = {
    "use": {"retriever": "bm25"},
    "data": {
        "train_questions": 6, "dev_questions": 2, "test_questions": 2, "train_documents": [3], "dev_documents": [3],
        "test_documents": [2, 3], "unlabelled_questions": 2, "surface_questions": 2, "surface_documents": [2],
        "surface_name_sharing_rates": [0.0],
    },
    "mask": {"top_k": 1},
    "teach": {"top_k": 1},
    "distill": {"batch_questions": 2},
    "train": {"steps": 2, "batch_examples": 2, "log_every": 1},
    "eval": {"retrieval_top_k": 1, "max_new_tokens": 3, "bootstrap_resamples": 100},
    "analyze": {"examples": 2},
}  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [main.__module__, *arguments])
    main()


def edit(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for section, values in changes.items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, examples, chunks and scores, which no base has a part in."""
    folder = tmp_path_factory.mktemp("scored")
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(ROOT / "params.yaml", folder)
    edit(folder, TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (prepare, chunk, score):
            run(patch, stage.main)
    return folder


def write_base(name: str, folder: Path) -> None:
    """A random model with the tokenizer of models/tiny-base; without BOS where the family has none."""
    stops = [EOS, 5] if name == "Llama 3, tied" else EOS
    network = families.network(
        name, vocab_size=2473, max_position_embeddings=1024, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=stops
    )
    network.save_pretrained(folder)
    shutil.copy(ROOT / "models/tiny-base/tokenizer.json", folder)
    own = json.loads((ROOT / "models/tiny-base/tokenizer_config.json").read_text())
    if "no BOS" in name:
        del own["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(own))


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_whole_graph_runs_and_trains_every_part(
    name: str, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    write_base(name, folder / "random")
    edit(folder, {"model": {"source": "random", "sha256": None, "max_tokens": 1024}})
    for stage in (base, tokenize, mask, teach):
        run(monkeypatch, stage.main)
    for method in methods.TRAINED:
        run(monkeypatch, train.main, method)
    for method in methods.METHODS:
        run(monkeypatch, evaluate.main, method)
    run(monkeypatch, analyze.main)
    printed = capsys.readouterr().out

    card = base_card.read_card()
    assert card.bos_id == (None if "no BOS" in name else BOS)
    assert card.eos_ids == ([EOS, 5] if name == "Llama 3, tied" else [EOS])
    assert card.sliding_window == families.config(name).to_dict().get("sliding_window")
    views = [row["input_ids"] for row in tables.scan(tables.FULL_VIEWS, ["input_ids"])]
    assert all((row[0] == BOS) == (card.bos_id is not None) for row in views)
    written = [json.loads(Path(f"models/{method}/{loading.TRAINED}").read_text()) for method in methods.TRAINED]
    found = [{part: each[part] for part in train.PARTS} for each in written]
    assert found[0] == found[1] == found[2]
    assert all(written[0][part]["trained"] == written[0][part]["of"] > 0 for part in train.PARTS)
    norms = written[0]["norms"]["of"]
    assert printed.count(f"{norms} of {norms} norms") == len(methods.TRAINED)
    assert "instead of the model's own" not in printed
    taught = r"2 questions with the teacher's answer \((\d) distinct labelled, (\d) unlabelled\)"
    [told] = re.findall(rf"train@guided: 2 steps of 2 labelled examples \((\d) distinct\) and {taught}; ", printed)
    assert told[0] == "4" and int(told[1]) + int(told[2]) == 4
    probes = json.loads(Path("reports/analysis.json").read_text())["methods"]
    windows = [layer["window"] for layer in probes["guided"]["attention"]["layers"]]
    own = families.FAMILIES[name][1]
    kinds = own.get("layer_types", ["sliding_attention" if "sliding_window" in own else "full_attention"] * 2)
    assert windows == [24 if kind == "sliding_attention" else None for kind in kinds]
    assert families.table_row(name, written[0]) in TABLE.read_text().splitlines()


@pytest.mark.parametrize(("name", "bos", "eos"), [("Qwen2, no BOS", None, EOS), ("Llama 3, tied", BOS, [EOS, 5])])
def test_a_merged_model_begins_and_ends_as_its_base_does(
    name: str, bos: int | None, eos: int | list[int], scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    write_base(name, folder / "random")
    edit(folder, {"model": {"source": "random", "sha256": None}})
    for stage in (base, tokenize):
        run(monkeypatch, stage.main)
    run(monkeypatch, train.main, "vanilla")
    run(monkeypatch, merge.main, "vanilla", "--out", "merged")
    for file in ("config.json", "generation_config.json"):
        written = json.loads(Path("merged", file).read_text())
        assert (written.get("bos_token_id"), written["eos_token_id"]) == (bos, eos)


def test_a_window_that_changes_the_model_is_said(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    write_base("Gemma 3", folder / "random")
    edit(folder, {"model": {"source": "random", "sha256": None, "sliding_window": 7}})
    run(monkeypatch, base.main)
    said = "attention windows are 7 tokens and all tokens instead of the model's own 24 tokens and all tokens"
    assert said in capsys.readouterr().out
    network = loading.load_base(loading_settings(), base_card.read_card())
    assert network.config.sliding_window == 7


def loading_settings() -> Any:
    return config.load("base").model


def test_a_tokenizer_of_another_vocabulary_than_the_embedding_is_refused(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    write_base("Qwen3", folder / "random")
    edit(folder, {"model": {"source": "random", "sha256": None}})
    path = folder / "random/tokenizer.json"
    whole = json.loads(path.read_text())
    size = len(whole["model"]["vocab"])
    word = {"content": "<image>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}

    def add(special: bool) -> None:
        added = [*whole["added_tokens"], {**word, "id": 2473, "special": special}]
        path.write_text(json.dumps(whole | {"added_tokens": added}))

    assert size == 2473
    add(special=True)  # a control token may be without a row
    run(monkeypatch, base.main)
    assert "random, 2,474 tokens" in capsys.readouterr().out
    add(special=False)
    with pytest.raises(
        ArtifactError, match=r"random: its tokenizer has ids up to 2,473, and its embedding rows for 2,473; tok"
    ):
        run(monkeypatch, base.main)


LOSSY = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "StripAccents"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"normalizer": LOSSY},
            r"random: its tokenizer reads .* and gives back ' the 3rd of may.*; choose a base",
        ),
        ({"decoder": None}, r"random: its tokenizer reads .* and gives back .*; choose a base whose tokenizer"),
    ],
)
def test_a_tokenizer_that_does_not_give_the_text_back_is_refused(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    write_base("Qwen3", folder / "random")
    path = folder / "random/tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    edit(folder, {"model": {"source": "random", "sha256": None}})
    with pytest.raises(ArtifactError, match=message) as error:
        run(monkeypatch, base.main)
    assert "\n" not in str(error.value)
    assert not base_card.BASE.exists()


@pytest.mark.parametrize("name", ["Phi-3", "Gemma 3", "Mixtral"])
def test_a_run_over_it_can_be_planned(
    name: str, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FOCUS_TFLOPS", "1")
    monkeypatch.setenv("FOCUS_GIB", "8")
    write_base(name, folder / "random")
    edit(folder, {"model": {"source": "random", "sha256": None}})
    edit(folder, {"model": {"max_tokens": 1024}})
    plan.main()
    printed = capsys.readouterr().out
    assert "\n| train@guided " in printed and "WARNING" not in printed


@pytest.mark.parametrize("name", ["Phi-3", "Mistral, a window"])  # measured, and by the formula
def test_rows_longer_than_a_base_was_trained_on_are_said_by_base_and_plan(
    name: str, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    write_base(name, folder / "random")
    edit(folder, {"model": {"source": "random", "sha256": None, "max_tokens": 1025}})
    warning = "WARNING: model.max_tokens 1,025 is longer than the 1,024 tokens that the base was trained on"
    for stage in (base, plan):
        run(monkeypatch, stage.main)
        assert capsys.readouterr().out.count(warning) == 1


def test_rows_longer_than_a_table_of_positions_are_refused_by_base_and_plan(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(scored, tmp_path / "project")
    monkeypatch.chdir(folder)
    write_base("GPT-2", folder / "random")
    edit(folder, {"model": {"source": "random", "sha256": None, "max_tokens": 1025}})
    for stage in (base, plan):
        with pytest.raises(ConfigError, match=r"^model.max_tokens is 1,025, .* a table of 1,024 positions; allowed is"):
            run(monkeypatch, stage.main)
    assert not base_card.BASE.exists()
