"""Stages base, tokenize and mask over the shipped base: control tokens, lengths, windows, mismatches."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.common import base_card, tables
from pipeline.common.tables import Evidence, Example
from pipeline.model import loading
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError, DataError
from pipeline.stages import base, mask, tokenize
from pipeline.training.dataset import context_keys
from pipeline.views import tokenizer
from tests.conftest import ELSEWHERE, ROOT

TEXTS = {"a": "Ada was born in Rome. <mask> </s> [INST] <s>", "b": "Bob works as a baker.", "c": "Cy lives in Oslo."}


def choose(**changes: dict[str, Any]) -> None:
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, values in changes.items():
        params[section].update(values)
    with Path("params.yaml").open("w") as file:
        yaml.dump(params, file)


def write_inputs(ranks: tuple[int, ...] = (2, 0, 1)) -> None:
    """One example over three one-chunk documents; a is gold."""
    example = Example(
        "e", "q", "toy", "train", "Where was Ada born?", "", ["Rome"], list("abc"), ["a"], [Evidence("a", 0, 5)], 0
    )
    tables.write(tables.EXAMPLES, [asdict(example)])
    chunks = [
        {"chunk_id": f"{d}#0", "document_id": d, "index": 0, "start": 0, "end": len(t), "title": "", "text": t}
        for d, t in TEXTS.items()
    ]
    tables.write(tables.CHUNKS, chunks)
    scores = {
        "example_id": "e", "chunk_ids": ["a#0", "b#0", "c#0"], "scores": [float(-r) for r in ranks],
        "ranks": list(ranks), "gold": [True, False, False],
    }  # fmt: skip
    tables.write(tables.SCORES, [scores])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, the shipped base after stage base, and one example."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "models/tiny-base", tmp_path / "models/tiny-base")
    monkeypatch.chdir(tmp_path)
    choose(mask={"top_k": 1})
    base.main()
    write_inputs()
    return tmp_path


def test_the_card_names_the_weights_and_the_tokenizer(project: Path):
    card = base_card.read_card()
    assert card.sha256 == hashlib.sha256(Path("models/tiny-base/model.safetensors").read_bytes()).hexdigest()
    assert card.tokenizer_sha256 == hashlib.sha256(Path("models/base/tokenizer.json").read_bytes()).hexdigest()
    assert sorted({card.bos_id, card.eos_id, card.pad_id, card.mask_id}) == [0, 1, 2, 3]
    assert not list(Path("models").glob(".*"))


def test_control_tokens_in_a_document_are_text(project: Path):
    tokenize.main()
    card = base_card.read_card()
    [row] = tables.scan(tables.FULL_VIEWS)
    controls = {card.bos_id, card.eos_id, card.pad_id, card.mask_id}
    inside = row["input_ids"][1:-1]
    assert not controls & set(inside)
    assert row["input_ids"][0] == card.bos_id
    assert row["input_ids"][-1] == card.eos_id
    loaded = tokenizer.load()
    start, end = row["chunk_starts"][0], row["chunk_ends"][0]
    assert loaded.decode(row["input_ids"][start:end], skip_special_tokens=False) == f"Document: {TEXTS['a']}\n"


def test_masked_views_keep_the_best_chunk_and_flag_the_lost_answer(project: Path, capsys: pytest.CaptureFixture[str]):
    tokenize.main()
    mask.main()
    card = base_card.read_card()
    [full] = tables.scan(tables.FULL_VIEWS)
    [row] = tables.scan(tables.MASKED_VIEWS)
    assert row["kept_chunk_ids"] == ["b#0"]
    assert (row["gold_retained"], row["answer_retained"]) == (False, False)
    start, end = full["chunk_starts"][1], full["chunk_ends"][1]
    assert row["input_ids"][start:end] == full["input_ids"][start:end]
    assert set(row["input_ids"][full["chunk_starts"][0] : full["chunk_ends"][0]]) == {card.mask_id}
    marks = tables.metadata(tables.MASKED_VIEWS)
    assert marks["tokenizer_sha256"] == card.tokenizer_sha256
    summary = json.loads(mask.SUMMARY.read_text())
    assert summary["splits"]["train"]["gold_retained"] == 0.0
    assert "1 masked view, mode token, top 1" in capsys.readouterr().out
    write_inputs(ranks=(0, 1, 2))
    mask.main()
    [row] = tables.scan(tables.MASKED_VIEWS)
    assert (row["gold_retained"], row["answer_retained"]) == (True, True)


def test_the_actors_of_a_cluster_make_the_same_bytes(project: Path):
    pytest.importorskip("ray")
    for table in (tables.EXAMPLES, tables.SCORES):
        [row] = tables.scan(table)
        tables.write(table, [row | {"example_id": f"e{number}"} for number in range(1200)])  # three blocks
    written: dict[str, list[bytes]] = {}
    outs = [tables.FULL_VIEWS.path, tokenize.SUMMARY, tables.MASKED_VIEWS.path, mask.SUMMARY]
    environment = os.environ | {"FOCUS_RAY_ACTORS": "2", "RAY_ADDRESS": "", "PYTHONPATH": str(ROOT)}
    for engine in ("local", "ray"):
        choose(context={"engine": engine}, mask={"top_k": 1})
        for stage in ("tokenize", "mask"):
            done = subprocess.run(
                [sys.executable, "-m", f"pipeline.stages.{stage}"], env=environment, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
        written[engine] = [path.read_bytes() for path in outs]
    assert written["ray"] == written["local"]


def test_gold_kept_is_a_share_of_the_examples_whose_gold_is_known(project: Path, capsys: pytest.CaptureFixture[str]):
    tokenize.main()
    [scores] = tables.scan(tables.SCORES)
    tables.write(tables.SCORES, [scores | {"gold": [False] * 3}])
    mask.main()
    train = json.loads(mask.SUMMARY.read_text())["splits"]["train"]
    assert (train["num_examples"], train["num_gold_known"], train["gold_retained"]) == (1, 0, None)
    assert train["answer_retained"] == 0.0
    assert "gold chunk kept: train unknown;" in capsys.readouterr().out
    tables.write(tables.SCORES, [scores | {"gold": [True, True, False]}])
    mask.main()
    train = json.loads(mask.SUMMARY.read_text())["splits"]["train"]
    assert (train["num_gold_known"], train["gold_retained"]) == (1, 1.0)


@pytest.mark.parametrize(
    ("changes", "top_k", "counts", "retained"),
    [
        ({"ranks": [0, 1, 2]}, 1, (0, 0, 0, 0), 1.0),
        ({"ranks": [0, 1, 2]}, 3, (1, 0, 0, 0), None),  # nothing is masked
        ({"ranks": [0, 1, 2], "gold": [True] * 3}, 1, (0, 1, 0, 0), None),  # gold whatever is kept
        ({"ranks": [0, 1, 2], "scores": [2.0] * 3}, 1, (0, 0, 1, 1), 0.0),  # gold is kept by chance
        ({"ranks": [0, 1, 2], "scores": [2.0] * 3}, 3, (1, 0, 0, 0), None),
        ({"ranks": [0, 1, 2], "scores": [2.0, 2.0, 1.0]}, 1, (0, 0, 0, 0), 1.0),
        ({"ranks": [0, 1, 2], "gold": [True] * 3, "scores": [2.0] * 3}, 1, (0, 1, 0, 1), None),
    ],
)
def test_contexts_that_say_nothing_of_the_retriever_count_apart(
    project: Path, capsys, changes, top_k, counts, retained
):
    choose(mask={"top_k": top_k})
    tokenize.main()
    [scores] = tables.scan(tables.SCORES)
    tables.write(tables.SCORES, [scores | changes])
    mask.main()
    train = json.loads(mask.SUMMARY.read_text())["splits"]["train"]
    names = ("num_whole", "num_only_gold", "num_equal_scores", "equal_contexts")
    assert tuple(train[name] for name in names) == counts
    assert (train["num_gold_known"], train["gold_retained"]) == (1, retained)
    why = "nothing is masked" if counts[0] else "every masked context has gold chunks alone"
    said = f"train {retained:.1%};" if retained is not None else f"train unknown ({why});"
    assert f"gold chunk kept: {said}" in capsys.readouterr().out


def test_more_kept_chunks_than_there_are_keep_all_and_are_counted(project: Path, capsys: pytest.CaptureFixture[str]):
    choose(mask={"top_k": 7})
    tokenize.main()
    mask.main()
    [full], [row] = tables.scan(tables.FULL_VIEWS), tables.scan(tables.MASKED_VIEWS)
    assert row["input_ids"] == full["input_ids"]
    said = capsys.readouterr().out
    assert "tokenize: 1 full view, " in said
    assert (
        "gold chunk kept: train unknown (nothing is masked); 1 context with no more than 7 chunks, left whole" in said
    )


def test_a_row_longer_than_the_model_reads_is_refused_not_cut(project: Path):
    choose(model={"max_tokens": 20})
    with pytest.raises(DataError, match=r"example e has \d+ tokens, model.max_tokens allows 20; give it"):
        tokenize.main()
    assert not tables.FULL_VIEWS.path.exists()


def write_questions(*questions: str) -> None:
    """One example for each question over the same three documents; a is gold."""
    examples = [
        Example(f"e{n}", f"q{n}", "toy", "test", text, "", ["Rome"], list("abc"), ["a"], [Evidence("a", 0, 5)], 0)
        for n, text in enumerate(questions)
    ]
    tables.write(tables.EXAMPLES, [asdict(example) for example in examples])


def test_one_text_under_two_ids_and_titles_is_one_context(project: Path):
    texts = {
        "a": ("Rome", "Ada was born\nin Rome."),
        "b": ("Ada", "ADA was born in  Rome. "),
        "c": ("Rome", "Bob bakes."),
    }
    chunks = [
        {"chunk_id": f"{name}#{index}", "document_id": name, "index": index, "start": 0, "end": 9, "title": title}
        | {"text": part}
        for name, (title, text) in texts.items()
        for index, part in enumerate((text[:8], text[8:]))
    ]
    tables.write(tables.CHUNKS, chunks)
    asked = {
        "a": ("ac", "a"), "b": ("cb", "b"), "c": ("bc", "c"), "both": ("cb", "cb"), "twice": ("ab", "ab"),
        "none": ("bc", ""), "none, other ids": ("ac", ""),
    }  # fmt: skip
    examples = [
        Example(
            name, name, "toy", "train", "?", "", ["Rome"], list(ids), list(gold), [], ids.find(gold) if gold else -1
        )
        for name, (ids, gold) in asked.items()
    ]
    tables.write(tables.EXAMPLES, [asdict(example) for example in examples])
    tokenize.main()
    assert context_keys(tables.FULL_VIEWS) == ["a", "a", "c", "a\tc", "a", "a\nc", "a\nc"]


@pytest.mark.parametrize(("too_long", "gold_cut"), [("cut_end", 0.0), ("cut_middle", 1.0)])
def test_a_long_context_is_cut_as_set_and_counted_and_its_questions_share_the_cut(
    project: Path, capsys: pytest.CaptureFixture[str], too_long: str, gold_cut: float
):
    write_questions("Where was Ada born?", "Where, in which of the towns named here, was Ada born?")
    tokenize.main()
    whole = list(tables.scan(tables.FULL_VIEWS))
    assert json.loads(tokenize.SUMMARY.read_text())["splits"]["test"]["cut"] == 0.0
    longest = max(len(row["input_ids"]) for row in whole)
    choose(mask={"top_k": 1}, context={"too_long": too_long}, model={"max_tokens": longest - 12})
    capsys.readouterr()
    tokenize.main()
    rows = list(tables.scan(tables.FULL_VIEWS))
    assert max(len(row["input_ids"]) for row in rows) == longest - 12
    assert len({tuple(row["input_ids"][: row["question_start"]]) for row in rows}) == 1
    for before, after in zip(whole, rows, strict=True):
        assert after["input_ids"][after["question_start"] :] == before["input_ids"][before["question_start"] :]
        assert after["chunk_ids"] == before["chunk_ids"]
    found = json.loads(tokenize.SUMMARY.read_text())["splits"]["test"]
    assert (found["num_examples"], found["cut"], found["gold_cut"]) == (2, 1.0, gold_cut)
    assert f"2 contexts cut ({too_long}, model.max_tokens {longest - 12:,})" in capsys.readouterr().out


def test_a_question_that_leaves_no_room_for_a_context_is_refused_with_its_length(project: Path):
    write_questions("Where was Ada born?", "Where? " * 200)
    choose(context={"too_long": "cut_end"}, model={"max_tokens": 100})
    with pytest.raises(DataError, match=r"example e1: question and answer have [\d,]+ tokens, which leaves no context"):
        tokenize.main()


def test_skip_is_refused_with_a_sliding_window_shorter_than_the_input(project: Path):
    tokenize.main()
    choose(mask={"top_k": 1, "mode": "skip"}, model={"sliding_window": 16})
    base.main()
    with pytest.raises(
        ConfigError, match=r"mask.mode skip is not exact .* the base has one of 16 tokens, example e has \d+"
    ):
        mask.main()
    choose(mask={"top_k": 1, "mode": "skip"}, model={"sliding_window": 4096})
    base.main()
    mask.main()


def test_scores_of_other_chunks_and_other_row_counts_are_refused(project: Path):
    tokenize.main()
    scores = list(tables.scan(tables.SCORES))
    tables.write(tables.SCORES, [scores[0] | {"chunk_ids": ["a#0", "b#0", "x#0"]}])
    with pytest.raises(ArtifactError, match="chunks of example e are not those"):
        mask.main()
    tables.write(tables.SCORES, [])
    with pytest.raises(
        ArtifactError,
        match=r"rows do not belong together: data/views/full.parquet \(e\), data/scores.parquet \(no row\)",
    ):
        mask.main()
    assert not tables.MASKED_VIEWS.path.exists()


def test_other_weights_than_pinned_are_refused_with_both_digests(project: Path):
    choose(model={"sha256": "0" * 64})
    with pytest.raises(ArtifactError, match=r"weights have sha256 [0-9a-f]{64}, model.sha256 is 0{64}"):
        base.main()
    assert base_card.BASE.is_dir()


def test_weights_that_changed_since_the_card_are_refused(project: Path):
    card = base_card.read_card()
    path = Path("models/tiny-base/model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    settings = weights_settings()
    with pytest.raises(ArtifactError, match=f"weights have sha256 [0-9a-f]+, models/base/base.json says {card.sha256}"):
        loading.load_base(settings, card)


def weights_settings() -> Any:
    return config.load("base").model


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("models/nothing", "'models/nothing' is no local folder, and the hub gave nothing"),
        ("conf", "; fetch those of the model into this folder, or set model.source"),
    ],
)
def test_a_base_that_is_not_there_is_one_line(project: Path, source: str, message: str):
    choose(model={"source": source})
    with pytest.raises(ArtifactError, match=message):
        base.main()


def test_weights_in_a_pickle_are_never_opened(project: Path):
    """A model folder with only a pickled checkpoint is refused before anything in it runs."""
    folder = Path("models/pickled")
    shutil.copytree("models/tiny-base", folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n(X\x0c\x00\x00\x00touch canary\x85R.")
    choose(model={"source": "models/pickled", "sha256": None})
    with pytest.raises(
        ArtifactError, match=r"no \.safetensors file, but pytorch_model.bin, which .* save_pretrained into"
    ):
        base.main()
    assert not Path("canary").exists()


def test_the_stage_leaves_with_its_exit_code_and_no_traceback(project: Path):
    tokenize.main()
    tables.SCORES.path.unlink()
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "pipeline.stages.mask"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 4
    assert done.stderr == "error: data/scores.parquet: no such file; run `dvc repro score` first\n"


def test_hash_seed_time_zone_and_locale_change_no_byte(project: Path):
    paths = (tables.FULL_VIEWS.path, tables.MASKED_VIEWS.path, tokenize.SUMMARY, mask.SUMMARY)
    tokenize.main()
    mask.main()
    found = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    for stage in ("tokenize", "mask"):
        subprocess.run([sys.executable, "-m", f"pipeline.stages.{stage}"], env=os.environ | ELSEWHERE, check=True)
    assert [path.read_bytes() for path in paths] == found


def test_a_window_for_a_model_without_one_is_refused(project: Path, tmp_path: Path):
    folder = tmp_path / "llama"
    shutil.copytree("models/tiny-base", folder)
    card = json.loads((folder / "config.json").read_text())
    del card["sliding_window"]
    (folder / "config.json").write_text(
        json.dumps({**card, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    choose(model={"source": str(folder), "sha256": None, "sliding_window": 64})
    with pytest.raises(
        ConfigError, match=r"model.sliding_window is 64, but no layer of this llama model has a window; set it to own"
    ):
        base.main()


def test_a_chat_is_tokenized_masked_and_cut_like_a_plain_prompt(project: Path):
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    Path("models/tiny-base/chat_template.jinja").write_text(template)
    choose(mask={"top_k": 1}, model={"prompt": "chat"})
    base.main()
    tokenize.main()
    mask.main()
    card, decode = base_card.read_card(), tokenizer.load().decode
    [full] = tables.scan(tables.FULL_VIEWS)
    [masked] = tables.scan(tables.MASKED_VIEWS)
    text = decode(full["input_ids"], skip_special_tokens=False)
    assert text.startswith("<s>[user] Answer the question from the documents.\nDocument: Ada was born in Rome.")
    assert text.endswith("Document: Cy lives in Oslo.\nQuestion: Where was Ada born?</s>[assistant] Rome</s>")
    assert full["input_ids"].count(card.eos_id) == 2  # that of the user's turn, and that of the answer
    hidden = [token for token in masked["input_ids"] if token == card.mask_id]
    spans = list(zip(full["chunk_starts"], full["chunk_ends"], strict=True))
    assert len(hidden) == sum(end - start for place, (start, end) in enumerate(spans) if place != 1)
    assert masked["input_ids"][full["question_start"] :] == full["input_ids"][full["question_start"] :]
    choose(model={"prompt": "chat", "max_tokens": len(full["input_ids"]) - 5}, context={"too_long": "cut_end"})
    tokenize.main()
    [cut] = tables.scan(tables.FULL_VIEWS)
    assert len(cut["input_ids"]) == len(full["input_ids"]) - 5
    head = full["chunk_starts"][0]
    assert cut["input_ids"][:head] == full["input_ids"][:head]
    assert cut["input_ids"][cut["question_start"] :] == full["input_ids"][full["question_start"] :]
