"""`make push` against a small hub on loopback that huggingface_hub itself talks to, and what is refused."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

from pipeline.common import base_card, files
from pipeline.model import loading
from pipeline.runtime.errors import ArtifactError, ConfigError, ResourceError
from pipeline.tools import lineage, push
from pipeline.training import model_card
from tests.conftest import ROOT
from tests.toy_training import CARD, TOKENIZER

ADAPTER = base_card.MODELS / "focused"
PART = {"trained": 1, "of": 2, "modules": [], "parameters": 3}


class Hub(HTTPServer):
    """Takes repositories and commits, and keeps what was uploaded."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        lines = [json.loads(line) for line in content.splitlines() if line]
        self.server.asked.append((self.path.partition("?")[0], lines[0]))
        if self.server.refuses:
            self.answer({"error": "no"}, 403)
        elif self.path.startswith("/api/models/me/model/preupload/"):
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in lines[0]["files"]
            ]
            self.answer({"files": modes})
        elif self.path.startswith("/api/models/me/model/commit/"):
            for line in lines[1:]:
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{url(self.server)}/me/model/commit/abc", "commitOid": "abc"})
        else:
            self.answer({"url": f"{url(self.server)}/me/model", "warnings": []})

    def answer(self, content: dict[str, Any], code: int = 200) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: Any) -> None:
        pass


def url(hub: HTTPServer) -> str:
    return f"http://127.0.0.1:{hub.server_port}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(push, "HfApi", lambda: push_api(url(made)))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield made
    made.shutdown()
    made.server_close()


def push_api(endpoint: str) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of an adapter that the checks without weights accept."""
    monkeypatch.chdir(tmp_path)
    base_card.write_card(CARD, base_card.BASE)
    from safetensors.numpy import save_file

    ADAPTER.mkdir(parents=True)
    save_file({}, ADAPTER / loading.WEIGHTS)
    base_card.write_card(CARD, ADAPTER)
    (ADAPTER / "tokenizer.json").write_bytes(TOKENIZER)
    (ADAPTER / "README.md").write_text("of stage train")
    files.write_json(ADAPTER / loading.CONFIG, {"peft_type": "LORA"})
    record = model_card.record("focused", {"lora": {"rank": 4}}, {"full views": "ab" * 32})
    parts = dict.fromkeys(("attention", "norms", "embedding"), PART)
    files.write_json(ADAPTER / loading.TRAINED, record | parts)
    monkeypatch.setattr(lineage, "changed", lambda *stages: None)  # no DVC here; tests/graph has one
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["push", *(arguments or ("focused", "--repo", "me/model"))])
    push.main()


def test_an_adapter_is_uploaded_in_one_commit_private_with_a_card_of_what_is_known(project, hub, monkeypatch, capsys):
    run(monkeypatch)
    paths = [path for path, _ in hub.asked if path != "/api/validate-yaml"]
    assert paths == [
        "/api/repos/create", "/api/models/me/model/preupload/main", "/api/models/me/model/commit/main",
    ]  # fmt: skip
    created = hub.asked[0][1]
    assert (created["name"], created["organization"]) == ("model", "me")
    assert created.get("visibility") == "private" or created.get("private") is True
    names = {path.name for path in ADAPTER.iterdir()}
    assert hub.files.keys() == names
    for name in names - {"README.md"}:
        assert hub.files[name] == (ADAPTER / name).read_bytes()
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.library_name == "peft" and "None are given: the model has not been evaluated." in card.text
    assert (ADAPTER / "README.md").read_text() == "of stage train"
    assert "push: 6 files of models/focused" in capsys.readouterr().out


def test_public_is_said_to_the_hub(project, hub, monkeypatch):
    run(monkeypatch, "focused", "--repo", "me/model", "--public")
    assert hub.asked[0][1].get("visibility") == "public" or hub.asked[0][1].get("private") is False


def test_a_merged_model_of_this_adapter_goes_and_one_of_another_does_not(project, hub, monkeypatch):
    merged = Path("models/merged-focused")
    with pytest.raises(
        ArtifactError, match="merged-focused: no merged model with its card; run `make merge METHOD=focu"
    ):
        run(monkeypatch, "focused", "--repo", "me/model", "--merged", str(merged))
    merged.mkdir()
    (merged / "config.json").write_text("{}")
    (merged / "README.md").write_text(f"of {lineage.adapter_sha256('focused')}")
    run(monkeypatch, "focused", "--repo", "me/model", "--merged", str(merged))
    assert hub.files.keys() == {"config.json", "README.md"}
    (merged / "README.md").write_text("of another")
    with pytest.raises(ArtifactError, match="merged-focused: was merged of another adapter; remove it and run"):
        run(monkeypatch, "focused", "--repo", "me/model", "--merged", str(merged))


@pytest.mark.parametrize("name", ["model", "me/model/x", "me/mo del", "", "me/--"])
def test_a_wrong_name_is_one_line(project, hub, monkeypatch, name):
    with pytest.raises(ConfigError, match=r"--repo is .*; ?expected OWNER/NAME|--repo is .* expected OWNER/NAME"):
        run(monkeypatch, "focused", "--repo", name)
    assert hub.asked == []


def test_without_a_token_nothing_is_asked(project, hub, monkeypatch):
    monkeypatch.setattr(push, "get_token", lambda: None)
    with pytest.raises(ResourceError, match="no token of the hub here; run `hf auth login`, or set HF_TOKEN"):
        run(monkeypatch)
    assert hub.asked == []


def test_a_hub_that_refuses_or_is_not_there_is_one_line(project, hub, monkeypatch):
    hub.refuses = True
    with pytest.raises(
        ResourceError, match=r"me/model: http://127\.0\.0\.1:\d+ did not take the files \(.*403.*\); check"
    ):
        run(monkeypatch)
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ResourceError, match=r"did not take the files \(.*\); check the network, the name and what the"):
        run(monkeypatch)


def test_an_adapter_that_is_out_of_date_is_refused(project, hub, monkeypatch):
    monkeypatch.setattr(lineage, "changed", lambda *stages: {"train@focused": ["models/focused", "params.yaml"]})
    with pytest.raises(
        ArtifactError, match=r"changed since it was trained: models/focused, params\.yaml; run `dvc repro"
    ):
        run(monkeypatch)
    assert hub.asked == []


def test_make_push_passes_its_variables_on():
    command = ["make", "-n", "push", "METHOD=guided", "REPO=me/model", "MODEL=models/merged-guided", "PUBLIC=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = 'pipeline.tools.push "guided" --repo "me/model" --merged "models/merged-guided" --public'
    assert wanted in done.stdout
