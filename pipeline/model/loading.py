"""Base weights and tokenizer on disk: found, checked against what the card says, loaded.

`models/base/base.json`, the card, is what everybody downstream agrees on: which weights, which tokenizer, which ids.
"""

import glob
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from pipeline.common import files
from pipeline.common.device import device
from pipeline.model import causal_lm
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.sections import Model

if not sys.stderr.isatty():
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers ships no type for it

MODELS = Path("models")
BASE = MODELS / "base"
CARD = "base.json"
PATTERNS = ["*.safetensors", "*.json", "tokenizer.model"]


@dataclass(frozen=True)
class BaseCard:
    """The base's identity."""

    source: str
    revision: str | None
    sha256: str
    """Over the safetensors files, in the order of their names."""
    vocab_size: int
    """Tokens of the tokenizer, <mask> and <pad> included."""
    tokenizer_sha256: str
    bos_id: int
    eos_id: int
    pad_id: int
    mask_id: int


@contextmanager
def workspace(name: str, parent: Path = MODELS) -> Iterator[Path]:
    """A folder beside parent/<name> for what is not finished yet; what a killed run left there is removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{name}.unfinished-"  # unlike anything of the user's own
    for stale in parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder:
        yield Path(folder)


def put(written: Path, place: Path) -> None:
    """Move a finished folder out of its workspace to its place; what was there before leaves with the workspace."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.move(place, written.with_name(f"old-{written.name}"))
    shutil.move(written, place)


def find(settings: Model) -> Path:
    """The local folder of the base: `source` itself, or the hub's snapshot of it; no code in it is ever run.

    Raises:
        ArtifactError: neither a folder nor reachable; without safetensors, or with broken ones; no model that
            transformers knows by itself.
    """
    folder = Path(settings.source)
    if not folder.is_dir():
        try:
            snapshot = snapshot_download(
                settings.source, revision=settings.revision, allow_patterns=PATTERNS, ignore_patterns="*/*"
            )
        except Exception as error:  # the hub's client raises a dozen kinds, those of its HTTP library among them
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ArtifactError(
                f"model.source {settings.source!r} is no local folder, and the hub gave nothing at revision "
                f"{settings.revision or 'main'} ({reason}); put the model's files in a folder and set model.source to "
                "its path"
            ) from None
        folder = Path(snapshot)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ArtifactError(f"{folder}: no .safetensors file; weights of other formats are not loaded, convert them")
    for path in paths:
        tensor_names(path, "fetch it again")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / 'config.json'}: no model's configuration ({error!r}); restore it") from None
    if kind not in CONFIG_MAPPING:
        raise ArtifactError(
            f"{folder / 'config.json'}: model_type {kind!r} is none that transformers knows, and code that comes with "
            "weights is not run; choose another model"
        )
    return folder


def tensor_names(path: Path, remedy: str) -> set[str]:
    """What a safetensors file holds. Raises ArtifactError, which ends with the remedy, when it is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: no whole safetensors file ({error}); {remedy}") from None


def digest(folder: Path) -> str:
    """SHA-256 over the bytes of all safetensors files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def write_card(card: BaseCard, folder: Path) -> None:
    files.write_json(folder / CARD, asdict(card))


def read_card(folder: Path = BASE, stage: str = "base") -> BaseCard:
    """The card of the base, or of the base that an adapter was trained on, which `stage` wrote."""
    values = files.read_json(folder / CARD, stage)
    try:
        return BaseCard(**values)
    except TypeError as error:
        raise ArtifactError(f"{folder / CARD}: {error}; run `dvc repro -f {stage}`") from None


def load_base(settings: Model, card: BaseCard, on: str | None = None) -> PreTrainedModel:
    """The base in evaluation mode on the device (or `on` another), its vocabulary resized to the tokenizer's.

    Raises:
        ArtifactError: the weights are not those of the card.
        ConfigError: model.sliding_window is set for a model that has no window.
    """
    folder = find(settings)
    if (found := digest(folder)) != card.sha256:
        raise ArtifactError(
            f"{folder}: weights have sha256 {found}, {BASE / CARD} says {card.sha256}; run `dvc repro -f base`"
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if settings.sliding_window is not None and not hasattr(config, "sliding_window"):
        raise ConfigError(
            f"model.sliding_window is {settings.sliding_window}, but a {config.model_type} model has no window; set it "
            "to null"
        )
    config.sliding_window = settings.sliding_window
    network: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=getattr(torch, settings.dtype), use_safetensors=True, trust_remote_code=False
    )
    causal_lm.resize(network, card.vocab_size)
    loaded: PreTrainedModel = network.to(on or device()).eval()
    return loaded


def copy_tokenizer(card: BaseCard, folder: Path) -> None:
    """The tokenizer of models/base into the folder. Raises ArtifactError when it is not the card's."""
    if (found := tokenizer_sha256(BASE)) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{BASE}: its tokenizer has sha256 {found}, the card says {card.tokenizer_sha256}; run `dvc repro -f base`"
        )
    for path in BASE.iterdir():
        if path.name != CARD:
            shutil.copyfile(path, folder / path.name)


def tokenizer_sha256(folder: Path) -> str:
    """SHA-256 of the folder's tokenizer.json; where there is none, words that are equal to no digest."""
    path = folder / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "of no file"
