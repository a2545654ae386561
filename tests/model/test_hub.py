"""The named models come from the hub by the code that the stages run: a hub on the loopback, serving tiny weights under
the real names, sees exactly what is asked for."""

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaTokenizer

from pipeline.common import base_card
from pipeline.model import loading
from pipeline.retrieval import checkpoint, embed, embedding_cache, encoder
from pipeline.runtime import config, main
from pipeline.runtime.errors import ArtifactError
from pipeline.stages import base
from tests import tiny_bert
from tests.conftest import ROOT
from tests.model import tiny

MISTRAL, CONTRIEVER = "mistralai/Mistral-7B-v0.1", "facebook/contriever"
PINNED = "27d67f1b5f57dc0953326b2601d68371d40ea8da"
MAIN = "b" * 40
"""The commit that main stands for where nothing is pinned."""


class Hub(ThreadingHTTPServer):
    """Folders under the names of repositories, each at one commit; and what was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories = {}
        """Name -> (commit, folder)."""
        self.asked = []
        """Method and path of each request."""
        self.status = None
        """Answer to everything, where the hub is out of order."""


class Handler(BaseHTTPRequestHandler):
    """What snapshot_download needs: a commit's name, the list of its files, and the files."""

    server: Hub

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        if self.server.status == "hang up":
            self.close_connection = True
        elif self.server.status:
            self.send({}, status=self.server.status)
        elif found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/(revision|tree)/([\w-]+)", path):
            name, kind, revision = found.groups()
            if folder := self.folder(name, revision):
                commit = self.server.repositories[name][0]
                self.send(listing(folder) if kind == "tree" else {"id": name, "sha": commit, "siblings": []})
        elif found := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/([\w-]+)/(.+)", path):
            name, revision, file = found.groups()
            if folder := self.folder(name, revision):
                commit = self.server.repositories[name][0]
                content = (folder / file).read_bytes()
                self.send(content, {"X-Repo-Commit": commit, "ETag": f'"{git_blob(content)}"'})
        else:
            self.send({}, {"X-Error-Code": "RepoNotFound"}, status=404)

    def folder(self, name, revision):
        commit, folder = self.server.repositories.get(name, (None, None))
        if folder is None:
            self.send({}, {"X-Error-Code": "RepoNotFound"}, status=401)
        elif revision not in (commit, "main"):
            self.send({}, {"X-Error-Code": "RevisionNotFound"}, status=404)
        else:
            return folder

    def send(self, content, headers=None, status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def listing(folder):
    found = []
    for path in sorted(folder.rglob("*")):
        entry = {"path": str(path.relative_to(folder)), "oid": "0" * 40}
        if path.is_dir():
            found.append(entry | {"type": "directory"})
        else:
            content = path.read_bytes()
            found.append(entry | {"type": "file", "size": len(content), "oid": git_blob(content)})
    return found


def save_mistral(folder):
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    tokenizer = LlamaTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[])
    tokenizer.save_pretrained(folder)
    tiny.network(vocab_size=len(pieces)).save_pretrained(folder, max_shard_size="20KB")
    edit(folder / "config.json", sliding_window=4096)  # as Mistral-7B-v0.1 has it
    return folder


def repository(folder):
    """What else stands in a repository: other formats, code, notes, other models in subfolders."""
    canary = f"open({str(folder.parent / 'canary')!r}, 'w')"
    for name in ("modeling_canary.py", "tokenizer_canary.py"):
        (folder / name).write_text(canary)
    for name in ("pytorch_model.bin", "training_args.bin", "README.md", ".gitattributes", "original/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"canary")
    add_code(folder)
    return folder


def add_code(folder):
    edit(
        folder / "config.json",
        auto_map={f"Auto{kind}": "modeling_canary.Canary" for kind in ("Config", "Model", "ModelForCausalLM")},
    )
    edit(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenizer_canary.Slow", "tokenizer_canary.Fast"]}
    )


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Both models as they stand in their repositories."""
    root = tmp_path_factory.mktemp("saved")
    return repository(save_mistral(root / "mistral")), repository(tiny_bert.save(root / "contriever"))


@pytest.fixture
def hub(saved):
    with Hub() as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        served.repositories = {MISTRAL: (PINNED, saved[0]), CONTRIEVER: (MAIN, saved[1])}
        yield served
        served.shutdown()


@pytest.fixture
def project(tmp_path):
    """Settings that choose the paper's models; what the encoder was made for is the only thing that differs."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "conf", root / "conf")
    params = (ROOT / "params.yaml").read_text()
    for section, value in {"  retriever": "contriever", "  model": "mistral", "retriever": "{max_tokens: 32}"}.items():
        params, count = re.subn(rf"(?m)^{section}: \S+", f"{section}: {value}", params)
        assert count == 1
    (root / "params.yaml").write_text(params)
    return root


RUN = """
import json, runpy, sys
from pathlib import Path
runpy.run_module("pipeline.stages.base", run_name="__main__")
from pipeline.common import base_card
from pipeline.common.device import device
from pipeline.model import loading
from pipeline.retrieval import embed, embedding_cache, encoder
from pipeline.runtime import config
network = loading.load_base(config.load("base").model, base_card.read_card())
text_encoder = encoder.TextEncoder(config.load("score").retriever, device())
embedded = embed.embed(text_encoder, embedding_cache.Cache(Path(sys.argv[1])), ["a document"], "chunks")
print(json.dumps({
    "kind": type(network).__name__, "window": network.config.sliding_window, "vocabulary": network.config.vocab_size,
    "embedding": embedded.embedding_ND.tolist(), "encoder": text_encoder.checkpoint.sha256,
}))
"""


def run(project, hub, *command):
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(project.parent / "hf"), "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT), "FOCUS_DEVICE": "cpu", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run([sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True)


@pytest.fixture
def here(hub, project, monkeypatch, tmp_path):
    """The hub as this very process sees it: the constants that HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE set."""
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants + "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def at(url):
        monkeypatch.setattr(constants + "ENDPOINT", url)
        monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        huggingface_hub.close_session()

    at(hub.url)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield at
    huggingface_hub.close_session()


def test_the_named_models_are_loaded_from_the_hub_and_then_from_its_cache(hub, here, project, saved, monkeypatch):
    done = run(project, hub, "-c", RUN, "embeddings.sqlite")
    assert done.returncode == 0, done.stderr
    stage, loaded = done.stdout.splitlines()
    assert stage.startswith(f"base: {MISTRAL}, 288 tokens, <mask> is 287")
    found = json.loads(loaded)
    assert (found["kind"], found["window"], found["vocabulary"]) == ("MistralForCausalLM", 4096, 288)
    assert found["encoder"] == hashlib.sha256((saved[1] / "model.safetensors").read_bytes()).hexdigest()
    card = json.loads((project / "models/base/base.json").read_text())
    assert (card["revision"], card["sha256"]) == (PINNED, loading.digest(saved[0]))

    files = [re.fullmatch(r"/(\w+/[\w.-]+)/resolve/(\w+)/(.+)", path) for _, path in hub.asked]
    asked = {match.groups() for match in files if match}
    shards = {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    tokenizer = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    mistral = shards | tokenizer | {"model.safetensors.index.json", "generation_config.json"}
    assert asked == {(MISTRAL, PINNED, name) for name in mistral} | {
        (CONTRIEVER, MAIN, name) for name in {"model.safetensors", *tokenizer}
    }

    hub.asked.clear()
    monkeypatch.chdir(project)
    monkeypatch.setenv("FOCUS_DEVICE", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project.parent / "hf/hub"))
    base.main()
    assert json.loads((project / "models/base/base.json").read_text()) == card
    network = loading.load_base(config.load("base").model, base_card.read_card())
    assert network.config.vocab_size == 288
    with closing(embedding_cache.Cache(project / "second.sqlite")) as cache:
        text_encoder = encoder.TextEncoder(config.load("score").retriever, torch.device("cpu"))
        embedded = embed.embed(text_encoder, cache, ["a document"], "chunks")
    assert embedded.num_encoded == 1 and embedded.embedding_ND.tolist() == found["embedding"]
    assert hub.asked == []
    assert not (saved[0].parent / "canary").exists()


def test_a_stage_that_gets_nothing_from_the_hub_ends_with_one_line_and_code_4(hub, here, project, monkeypatch, capsys):
    hub.repositories[MISTRAL] = ("d" * 40, hub.repositories[MISTRAL][1])
    monkeypatch.chdir(project)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main.run(base.main)
    signal.signal(signal.SIGTERM, handler)
    assert caught.value.code == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: model.source '{MISTRAL}'") and PINNED in line
    assert "Revision Not Found" in line and "set model.source to its path" in line
    assert not (project / "models").exists()


@pytest.fixture
def both(project):
    """The two ways to the hub, each with its bundle's settings."""
    return [
        (loading.find_base, config.load("base", project).model),
        (checkpoint.find, config.load("score", project).retriever),
    ]


def refusals(both, **changes):
    """The one line that the user reads, for either model."""
    messages = []
    for find, settings in both:
        with pytest.raises(ArtifactError) as caught:
            find(settings.model_copy(update=changes))
        message = str(caught.value)
        assert "\n" not in message and (settings.source in message or "models--" in message)
        messages.append(message)
    return messages


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_a_hub_that_answers_with_an_error_is_one_line(hub, here, both, status):
    hub.status = status
    assert all(str(status) in message and "to its path" in message for message in refusals(both))


def test_a_hub_that_hangs_up_is_one_line(hub, here, both):
    hub.status = "hang up"
    assert all("disconnected" in message for message in refusals(both))


def test_a_hub_that_is_not_there_is_one_line(hub, here, both):
    hub.shutdown()
    hub.server_close()
    assert all("Connection refused" in message for message in refusals(both))


def test_a_repository_that_is_not_there_is_one_line(hub, here, both):
    hub.repositories.clear()
    assert all("Repository Not Found" in message for message in refusals(both))


def test_a_revision_that_is_not_there_is_named(hub, here, both):
    messages = refusals(both, revision="e" * 40) + refusals(both, revision="no-such-branch")
    assert all("Revision Not Found" in message for message in messages)
    assert [("e" * 40) in message for message in messages] == [True, True, False, False]


def test_offline_mode_asks_for_nothing(hub, here, both, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert all("HF_HUB_OFFLINE" in message for message in refusals(both))
    assert hub.asked == []


def test_weights_of_the_base_that_may_run_code_are_refused_without_being_fetched(hub, here, both, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("pytorch_model.bin", "config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    hub.repositories = {MISTRAL: (PINNED, folder)}
    (model,) = refusals(both[:1])
    assert "no .safetensors file and no other weights (of a model on the hub only safetensors are fetched)" in model
    assert not [path for _, path in hub.asked if path.endswith(".bin")]


@pytest.fixture
def as_it_is(hub, here, saved, project, tmp_path, monkeypatch):
    """Contriever's repository as it stands on the hub: pickled weights alone."""
    folder = Path(shutil.copytree(saved[1], tmp_path / "pickled"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    # A buffer that transformers no longer keeps.
    weights["embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    hub.repositories = {CONTRIEVER: (MAIN, folder)}
    monkeypatch.chdir(project)
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    return folder


def embeddings():
    text_encoder = encoder.TextEncoder(config.load("score").retriever, torch.device("cpu"))
    (batch,) = text_encoder.batches(["a document", "another one"], "chunks")
    return text_encoder.embed(batch).tolist(), text_encoder.checkpoint.sha256


def test_contriever_starts_from_the_hub_as_it_is_there(hub, as_it_is, saved, monkeypatch):
    found, sha256 = embeddings()
    assert sha256 == hashlib.sha256((as_it_is / "pytorch_model.bin").read_bytes()).hexdigest()
    fetched = {path.rpartition("/")[2] for _, path in hub.asked if "/resolve/" in path}
    assert fetched == {"config.json", "tokenizer.json", "tokenizer_config.json", "pytorch_model.bin"}
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch, "load", None)  # it was converted
    assert embeddings() == (found, sha256) and hub.asked == []
    encoder_itself = encoder.TextEncoder(tiny_bert.retriever(saved[1]), torch.device("cpu"))
    (batch,) = encoder_itself.batches(["a document", "another one"], "chunks")
    assert encoder_itself.embed(batch).tolist() == found


def test_a_pickle_bomb_from_the_hub_ends_the_stage_with_one_line(hub, as_it_is, tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "bomb went off",)

    torch.save({"embeddings.word_embeddings.weight": Bomb()}, as_it_is / "pytorch_model.bin")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main.run(embeddings)
    signal.signal(signal.SIGTERM, handler)
    assert caught.value.code == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "pytorch_model.bin: cannot be loaded as an encoder (it asks to run" in line and "not done" in line
    assert not (tmp_path / "bomb went off").exists()


def test_a_local_folder_is_loaded_offline_and_its_code_is_not_run(saved, project, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = config.load("base", project).model.model_copy(update={"source": str(saved[0])})
    card = base_card.BaseCard("", None, loading.digest(saved[0]), 288, "", 1, [2], 286, 287)
    assert loading.load_base(settings, card).config.vocab_size == 288
    retriever = tiny_bert.retriever(saved[1])
    assert encoder.TextEncoder(retriever, torch.device("cpu")).network
    assert not (saved[0].parent / "canary").exists()


def test_a_model_that_is_nothing_without_its_code_is_refused(saved, project, tmp_path):
    folder = Path(shutil.copytree(saved[0], tmp_path / "model"))
    edit(folder / "config.json", model_type="focused_canary")
    settings = config.load("base", project).model.model_copy(update={"source": str(folder)})
    with pytest.raises(ArtifactError, match=r"model_type 'focused_canary' .* code that comes with weights is not run"):
        loading.find_base(settings)
    assert not (saved[0].parent / "canary").exists()


@pytest.mark.parametrize("damage", [pickle.dumps({"weight": [1.0]}), b"", None], ids=["pickle", "empty", "cut"])
def test_a_file_that_is_no_safetensors_file_is_refused_by_its_header(saved, project, tmp_path, damage):
    folder = Path(shutil.copytree(saved[0], tmp_path / "model"))
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    settings = config.load("base", project).model.model_copy(update={"source": str(folder)})
    with pytest.raises(ArtifactError, match=r"model-00002-of-00003.safetensors: no whole safetensors file"):
        loading.find_base(settings)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "[" * 100_000, None], ids=["cut", "list", "empty", "deep", "none"])
def test_a_configuration_that_is_none_is_named(saved, project, tmp_path, damage):
    folder = Path(shutil.copytree(saved[0], tmp_path / "model"))
    (folder / "config.json").unlink() if damage is None else (folder / "config.json").write_text(damage)
    settings = config.load("base", project).model.model_copy(update={"source": str(folder)})
    with pytest.raises(ArtifactError, match=r"config.json: no model's configuration"):
        loading.find_base(settings)
