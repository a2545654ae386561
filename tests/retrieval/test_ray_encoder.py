"""Encoding on the actors of a Ray cluster gives the bytes of one machine, and errors in one line."""

import dataclasses
import json
import pickle
import shutil
import signal
import socket
import sqlite3
import sys
from contextlib import closing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.common import tables
from pipeline.retrieval import embed, embedding_cache, encoder, ray_encoder
from pipeline.retrieval.sentence_encoder import SentenceEncoder
from pipeline.runtime import config, errors, main
from pipeline.stages import score
from tests import tiny_bert, tiny_sentence_transformer
from tests.conftest import ROOT
from tests.stages.test_score import EXAMPLES, chunks

TEXTS = ["abc", "", "a longer text, 12 words or so.", "abc def", "x" * 50]
CPU = torch.device("cpu")


@pytest.fixture
def cluster(monkeypatch):
    """One actor on a cluster of this machine, which the code starts when it first needs it and keeps for this file."""
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("FOCUS_DEVICE", "cpu")
    monkeypatch.setenv("FOCUS_RAY_ACTORS", "1")


@pytest.fixture(scope="module", autouse=True)
def shut_down():
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a working folder with our conf/, toy chunks and examples."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    tables.write(tables.CHUNKS, chunks())
    tables.write(tables.EXAMPLES, EXAMPLES)
    return tmp_path


def scored(engine, source, cache_folder, monkeypatch):
    """Run the stage; return the bytes of its outs, and the embeddings in its cache."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["retriever"] = {"source": str(source), "sha256": None, "max_tokens": 32}
    config.PARAMS.write_text(json.dumps(params | {"score": {"engine": engine}}))
    monkeypatch.setenv("FOCUS_CACHE", str(cache_folder))
    score.main()
    with closing(sqlite3.connect(cache_folder / embedding_cache.FILE)) as cache:
        rows = cache.execute("SELECT * FROM embeddings ORDER BY key").fetchall()
    return tables.SCORES.path.read_bytes(), score.REPORT.read_bytes(), rows


def test_the_scores_are_those_of_one_machine_to_the_last_byte(folder, project, cluster, monkeypatch, capfd):
    monkeypatch.setattr(ray_encoder, "BLOCKS_PER_ACTOR", 1)
    monkeypatch.setattr(encoder, "SEQUENCE_TOKENS", {"cpu": 32})  # several batches
    here = scored("local", folder, project / "local", monkeypatch)
    shutil.copytree(project / "local", project / "ray")
    name = encoder.TextEncoder(tiny_bert.retriever(folder), CPU).name("questions")
    # The questions stay in the cache, so that the actors start once.
    questions = [embedding_cache.key(name, example["question"]) for example in EXAMPLES]
    with closing(sqlite3.connect(project / "ray" / embedding_cache.FILE)) as cache, cache:
        cache.execute(f"DELETE FROM embeddings WHERE key NOT IN ({','.join('?' * len(questions))})", questions)
    monkeypatch.setenv("FOCUS_RAY_ACTORS", "2")
    capfd.readouterr()
    assert scored("ray", folder, project / "ray", monkeypatch) == here
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.count("\n") == 1 and "4 encoded now, 0 from the cache" in said.out


def test_an_encoder_of_sentence_transformers_embeds_on_actors_too(tmp_path, cache, cluster):
    folder = tiny_sentence_transformer.save(tmp_path, "qwen3", {"document": "tell "})
    settings = tiny_sentence_transformer.retriever(folder, passage_prompt=None)
    there = embed.embed(SentenceEncoder(settings, CPU), cache, TEXTS, "chunks", "ray")
    with closing(embedding_cache.Cache(tmp_path / "local.sqlite")) as other:
        here = embed.embed(SentenceEncoder(settings, CPU), other, TEXTS, "chunks")
    assert (there.embedding_ND == here.embedding_ND).all()
    assert there.num_tokens_N.tolist() == here.num_tokens_N.tolist() == [9, 6, 36, 13, 56]


def test_other_files_on_an_actors_machine_end_the_run_in_one_line(tmp_path, cache, cluster, monkeypatch, capfd):
    found = encoder.TextEncoder(tiny_bert.retriever(tiny_bert.save(tmp_path / "bert")), CPU)
    tiny_bert.save(tmp_path / "bert", seed=1)
    terminate = signal.getsignal(signal.SIGTERM)
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main.run(lambda: embed.embed(found, cache, TEXTS, "chunks", "ray"))
    signal.signal(signal.SIGTERM, terminate)
    assert caught.value.code == errors.ArtifactError.exit_code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: retriever.source '{tmp_path / 'bert'}': the files in ")
    assert f"and {found.checkpoint.files_sha256} on the one that started the stage; put the encoder where" in line


def test_a_machine_that_lacks_the_files_or_calculates_otherwise_is_named(folder):
    found = encoder.TextEncoder(tiny_bert.retriever(folder), CPU)
    found.dtype = torch.float64
    with pytest.raises(errors.ConfigError, match=r"embeds in torch\.\w+, the one .* has 1.0 and torch.float64;"):
        ray_encoder.check_machine(found, "1.0")
    found.checkpoint = dataclasses.replace(found.checkpoint, folder=folder / "nowhere")
    with pytest.raises(errors.ArtifactError, match=r"machine .* cannot read .*nowhere/model.safetensors \(No such"):
        ray_encoder.check_machine(found, "1.0")


def test_without_ray_the_line_says_how_to_install_it(folder, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    mend = r'`pip install "focused-learning\[ray\]"`, or set score.engine: local'
    with pytest.raises(errors.ConfigError, match=mend) as caught:
        embed.embed(encoder.TextEncoder(tiny_bert.retriever(folder), CPU), cache, TEXTS, "chunks", "ray")
    assert "\n" not in str(caught.value)


def test_a_cluster_that_does_not_answer_is_named(folder, cache, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(errors.ResourceError, match=f"RAY_ADDRESS '{address}' gave no connection .*refused"):
        embed.embed(encoder.TextEncoder(tiny_bert.retriever(folder), CPU), cache, TEXTS, "chunks", "ray")


def test_a_full_cache_needs_no_ray(folder, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    embed.embed(encoder.TextEncoder(tiny_bert.retriever(folder), CPU), cache, TEXTS, "chunks")
    assert (
        embed.embed(encoder.TextEncoder(tiny_bert.retriever(folder), CPU), cache, TEXTS, "chunks", "ray").num_cached
        == 5
    )


def test_there_are_as_many_actors_as_the_cluster_can_run(monkeypatch):
    monkeypatch.delenv("FOCUS_RAY_ACTORS", raising=False)
    assert ray_encoder.num_actors("cuda", {"CPU": 16.0, "GPU": 3.0}) == 3
    assert ray_encoder.num_actors("cpu", {"CPU": 16.0}) == 16
    monkeypatch.setenv("FOCUS_RAY_ACTORS", "2")
    assert ray_encoder.num_actors("cpu", {"CPU": 16.0}) == 2


@pytest.mark.parametrize("chosen", ["0", "17", "-1", "two"])
def test_more_actors_than_the_cluster_can_run_are_refused(monkeypatch, chosen):
    monkeypatch.setenv("FOCUS_RAY_ACTORS", chosen)
    with pytest.raises(errors.ConfigError, match=rf"FOCUS_RAY_ACTORS is '{chosen}'.* 16 CPUs .*from 1 to 16"):
        ray_encoder.num_actors("cpu", {"CPU": 16.0})


def test_gpus_are_not_passed_over_without_a_word(monkeypatch):
    monkeypatch.delenv("FOCUS_RAY_ACTORS", raising=False)
    monkeypatch.delenv("FOCUS_DEVICE", raising=False)
    with pytest.raises(errors.ConfigError, match=r"has 8 GPUs, but the machine .* or set FOCUS_DEVICE=cpu"):
        ray_encoder.num_actors("cpu", {"CPU": 16.0, "GPU": 8.0})
    monkeypatch.setenv("FOCUS_DEVICE", "cpu")
    assert ray_encoder.num_actors("cpu", {"CPU": 16.0, "GPU": 8.0}) == 16


@given(st.lists(st.integers(2, 64), max_size=60), st.integers(1, 3), st.integers(1, 3))
def test_blocks_hold_every_batch_once(lengths, most, per_block):
    batches = [encoder.EncoderBatch(indices, indices, indices) for indices in encoder.filled(lengths, 64)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_encoder, "MAX_BATCHES_PER_BLOCK", per_block)
        blocks = [
            [pickle.loads(row) for row in block["pickled"].to_pylist()] for block in ray_encoder.blocks(batches, most)
        ]
    assert all(1 <= len(block) <= per_block for block in blocks)
    assert sorted(batch for block in blocks for batch in block) == sorted(batches)
