"""Encoders of sentence-transformers: what that library computes, through our batches, cache, stages and refusals."""

import json
import os
import pickle
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from pipeline.common import files, tables
from pipeline.retrieval import embed, embedding_cache, encoder, ray_encoder
from pipeline.retrieval.sentence_encoder import SentenceEncoder
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.stages import gate, score, validate
from tests import tiny_sentence_transformer
from tests.conftest import ROOT
from tests.retrieval.test_encoder import WRONG_VOCABULARIES, refusal
from tests.stages.test_score import TEXTS as TEXTS_OF
from tests.stages.test_score import project  # noqa: F401  # a fixture

CPU = torch.device("cpu")
TEXTS = ["abc", "", "a longer text, 12 words or so.", "abc def", "x" * 60]
PROMPTS = {"query": "ask ", "document": "tell "}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(encoder, "number_format", lambda on: torch.float32)


@pytest.fixture(scope="module", params=["bert", "roberta", "qwen3"])
def every(request, tmp_path_factory):
    return tiny_sentence_transformer.save(tmp_path_factory.mktemp("every"), request.param, PROMPTS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny_sentence_transformer.save(tmp_path_factory.mktemp("one"), prompts=PROMPTS)


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "encoder"))


def opened(folder, **changes):
    return SentenceEncoder(tiny_sentence_transformer.retriever(folder, **changes), CPU)


def embedded(text_encoder, texts, what):
    found = np.empty((len(texts), 16), dtype=np.float32)
    for batch in text_encoder.batches(texts, what):
        found[batch.indices] = text_encoder.embed(batch)
    return found


def expected(folder, texts, prompt, max_tokens=48):
    """The library by itself, text by text."""
    peer = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    peer.max_seq_length = max_tokens
    return np.concatenate([peer.encode([text], prompt=prompt) for text in texts])


@pytest.mark.parametrize(
    ("prompts", "query", "passage"),
    [
        ({}, "query: ", "passage: "),
        ({"query_prompt": None, "passage_prompt": None}, "ask ", "tell "),
        ({"query_prompt": "", "passage_prompt": ""}, "", ""),
    ],
    ids=["of the settings", "of the folder", "none"],
)
def test_embeddings_are_those_of_the_library_with_the_prompts(every, prompts, query, passage, monkeypatch):
    monkeypatch.setattr(encoder, "SEQUENCE_TOKENS", {"cpu": 64})  # several batches
    loaded = opened(every, **prompts)
    for what, prompt in (("questions", query), ("chunks", passage)):
        assert embedded(loaded, TEXTS, what) == pytest.approx(expected(every, TEXTS, prompt), abs=1e-5)


def test_a_question_differs_from_a_chunk_and_both_are_kept(saved, tmp_path):
    loaded = opened(saved)
    with closing(embedding_cache.Cache(tmp_path / "cache.sqlite")) as cache:
        question = embed.embed(loaded, cache, TEXTS, "questions")
        chunk = embed.embed(loaded, cache, TEXTS, "chunks")
        again = embed.embed(opened(saved), cache, TEXTS, "chunks")
    assert (question.num_cached, chunk.num_cached, again.num_cached) == (0, 0, 5)
    assert not np.allclose(question.embedding_ND, chunk.embedding_ND)
    assert (again.embedding_ND == chunk.embedding_ND).all()
    # "passage: " has 8 letters, and [CLS] and [SEP] are 2.
    assert chunk.num_tokens_N.tolist() == [13, 10, 34, 16, 70]
    assert np.linalg.norm(chunk.embedding_ND, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "change", [{"max_tokens": 40}, {"passage_prompt": "p: "}, {"passage_prompt": ""}, {"passage_prompt": None}]
)
def test_what_changes_an_embedding_changes_its_key(saved, change):
    assert opened(saved).name("chunks") != opened(saved, **change).name("chunks")


def test_the_pooling_and_the_prompts_of_the_folder_count_for_the_key(folder):
    names = [opened(folder).name("chunks")]
    for name, change in {
        "1_Pooling/config.json": {"pooling_mode": "cls"},
        "config_sentence_transformers.json": {},
    }.items():
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | change | {"prompts": {"document": "t "}}))
        names.append(opened(folder).name("chunks"))
    assert len(set(names)) == 3


def test_more_than_512_tokens_are_read_where_the_encoder_takes_them(tmp_path):
    folder = tiny_sentence_transformer.save(tmp_path, "qwen3")
    texts = ["a b" * 400, "a b" * 399 + "c d", "a b" * 900]
    found = embedded(opened(folder, max_tokens=2000, passage_prompt=""), texts, "chunks")
    assert not np.allclose(found[0], found[1], atol=1e-3)  # they differ behind token 1,000
    assert found == pytest.approx(expected(folder, texts, "", 2000), abs=1e-4)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 64), ("roberta", 63), ("qwen3", 2000)])
def test_more_tokens_than_the_encoder_has_positions_are_refused(tmp_path, kind, limit):
    folder = tiny_sentence_transformer.save(tmp_path, kind)
    message = refusal(ConfigError, lambda: opened(folder, max_tokens=limit + 1).network)
    assert f"retriever.max_tokens is {limit + 1}" in message and f"at most {limit}" in message
    full = opened(folder, max_tokens=limit, passage_prompt="")
    assert np.isfinite(embedded(full, ["x" * 3 * limit], "chunks")).all()


class Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def test_pickled_weights_are_read_and_a_bomb_among_them_does_not_go_off(folder, saved, tmp_path):
    canary = tmp_path / "canary"
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert embedded(opened(folder), TEXTS, "chunks") == pytest.approx(
        embedded(opened(saved), TEXTS, "chunks"), abs=1e-6
    )
    for content in (weights | {"bomb": Bomb(str(canary))}, None):
        torch.save(content, folder / "pytorch_model.bin")
        if content is None:
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(str(canary))))
        message = refusal(ArtifactError, lambda: opened(folder).network)
        assert str(folder) in message and "weights_only" not in message
    assert not canary.exists()


@pytest.mark.parametrize("change", ["missing", "of another shape"])
def test_weights_that_the_folder_lacks_are_not_drawn_at_random(every, tmp_path, change, capfd):
    folder = Path(shutil.copytree(every, tmp_path / "encoder"))
    weights = load_file(folder / "model.safetensors")
    pooler = [name for name in weights if name.startswith("pooler.")]
    for name in pooler:  # nothing reads it
        del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert bool(pooler) == ("qwen3" not in str(every))
    assert embedded(opened(folder), TEXTS, "chunks") == pytest.approx(embedded(opened(every), TEXTS, "chunks"))
    first, second = sorted(name for name in weights if "layer" in name)[:2]
    del weights[second]
    if change == "missing":
        del weights[first]
    else:
        weights[first] = torch.zeros(3, 5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    capfd.readouterr()
    assert refusal(ArtifactError, lambda: opened(folder).network) == (
        f"{folder}: 2 weights that config.json describes are missing or of another shape, first {first}; restore the "
        "files"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("damage", "message"), WRONG_VOCABULARIES)
def test_a_tokenizer_that_does_not_belong_to_the_network_is_refused(folder, damage, message):
    damage(folder)
    assert f"{folder}: {message}" in refusal(ArtifactError, lambda: opened(folder).network)


def test_code_beside_the_weights_is_never_run(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "evil.Evil"
    (folder / "modules.json").write_text(json.dumps(modules))
    message = refusal(ArtifactError, lambda: opened(folder).network)
    assert str(folder) in message and "it needs code of its own, which is not run" in message
    assert not canary.exists()


def test_a_folder_without_its_modules_is_refused_because_the_library_would_guess_the_pooling(folder):
    (folder / "modules.json").unlink()
    assert "no modules.json in" in refusal(ArtifactError, lambda: opened(folder).network)


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json"])
def test_a_damaged_or_missing_description_is_named(folder, name):
    whole = (folder / name).read_text()
    (folder / name).write_text(whole[: len(whole) // 2])
    assert f"{folder / name}: no JSON (" in refusal(ArtifactError, lambda: opened(folder).network)
    if name != "modules.json":
        (folder / name).unlink()
        assert f"{folder / name}: cannot be read (No such file" in refusal(
            ArtifactError, lambda: opened(folder).network
        )


def test_a_model_without_a_tokenizer_of_transformers_is_refused(tmp_path):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    static = StaticEmbedding(Tokenizer(WordLevel({"a": 0}, unk_token="a")), embedding_dim=4)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"), create_model_card=False)
    assert "StaticEmbedding" in refusal(ArtifactError, lambda: opened(tmp_path / "static").network)


def test_what_a_process_has_loaded_does_not_travel(saved):
    loaded = opened(saved)
    whole = embedded(loaded, TEXTS, "chunks")
    sent = pickle.dumps(loaded)
    assert len(sent) < 10_000
    arrived = pickle.loads(sent)
    for batch in loaded.batches(TEXTS, "chunks"):
        stripped, embedding_BD = ray_encoder.EncoderActor(arrived, str(torch.__version__))._embed(batch)
        assert stripped.inputs is None and (embedding_BD == whole[batch.indices]).all()


def test_the_stages_score_validate_and_gate_take_it(project, saved, monkeypatch):  # noqa: F811
    monkeypatch.setattr(encoder, "number_format", lambda on: torch.float32)
    settings = tiny_sentence_transformer.retriever(saved, max_tokens=32)
    Path("conf/retriever/tiny.yaml").write_text(settings.model_dump_json())
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["use"]["retriever"] = "tiny"
    params["validation"]["retrievers"] = ["tiny"]
    config.PARAMS.write_text(json.dumps(params))
    score.main()
    report = files.read_json(score.REPORT, "score")
    assert report["retriever"]["kind"] == "sentence_transformer" and report["retriever"]["query_prompt"] == "query: "
    assert report["retriever"]["dtype"] == "float32" and len(report["retriever"]["sha256"]) == 64
    assert report["encoder"]["encodes_per_unique_chunk"] == 1.0
    assert report["collection"]["num_chunks"] == 4
    documents = [
        {"document_id": name, "title": "", "text": "".join(texts), "whole": True} for name, texts in TEXTS_OF.items()
    ]
    tables.write(tables.DOCUMENTS, documents)
    validate.main()
    rows = files.read_json(validate.REPORT, "validate")["rows"]
    assert {(row["retriever"], row["split"]) for row in rows} == {("tiny", "train"), ("tiny", "test")}
    # Without a title, "passage: ", 30 letters and more, and [CLS] and [SEP] are more than 32 tokens.
    assert {row["truncated_chunks"] for row in rows} == {1.0}
    names = ("num_whole", "num_only_gold", "num_equal_scores", "whole_contexts", "equal_contexts")
    train = {"num_examples": 1, "gold_retained": 1.0, "num_gold_known": 1, **dict.fromkeys(names, 0)}
    files.write_json(gate.MASK, {"splits": {"train": train}, "top_k": 4})
    gate.main()
    assert files.read_json(gate.REPORT, "gate")["verdict"] == "passed"


def test_the_shipped_bundles_name_prompts_and_pins():
    found = config.load_retrievers(["e5", "bge", "qwen3-embedding"], ROOT)
    assert {retriever.kind for retriever in found.values()} == {"sentence_transformer"}
    assert all(len(retriever.revision) == 40 for retriever in found.values())
    assert (found["e5"].query_prompt, found["e5"].passage_prompt) == ("query: ", "passage: ")
    assert found["qwen3-embedding"].query_prompt.endswith("\nQuery:")
    assert found["qwen3-embedding"].max_tokens > 512
