"""Base weights and adapters on disk: found, checked against what the card says, loaded.

`models/base/base.json`, the card, is what everybody downstream agrees on: which weights, which tokenizer, which ids.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from pipeline import files
from pipeline.core import model
from pipeline.device import device
from pipeline.errors import ArtifactError, ConfigError
from pipeline.settings import Model

# peft 0.21 asks transformers 5.23 by the old name of a property; nothing for the user to act on.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
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
def workspace(name: str) -> Iterator[Path]:
    """A folder beside models/<name> for what is not finished yet; what a killed run left there is removed first."""
    MODELS.mkdir(exist_ok=True)
    for stale in MODELS.glob(f".{name}.*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=MODELS, prefix=f".{name}.") as folder:
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
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path}: no whole safetensors file ({error}); fetch it again") from None
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


def read_card(folder: Path = BASE) -> BaseCard:
    """The card of the base, or of the base that an adapter was trained on."""
    values = files.read_json(folder / CARD, "base")
    try:
        return BaseCard(**values)
    except TypeError as error:
        raise ArtifactError(f"{folder / CARD}: {error}; run `dvc repro -f base`") from None


def load_base(settings: Model, card: BaseCard) -> PreTrainedModel:
    """The base in evaluation mode on the device, its vocabulary resized to the tokenizer's.

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
    model.resize(network, card.vocab_size)
    loaded: PreTrainedModel = network.to(device()).eval()
    return loaded


def save_adapter(
    adapted: PeftModel, card: BaseCard, folder: Path, network_weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Adapter weights and config as PEFT writes them, beside the card of the base they belong to.

    `network_weights` are those of the whole network, where the network itself does not hold them.
    """
    # True, not "auto": auto asks the hub for the base's config, and LoRA on the embedding needs its rows anyway.
    adapter_config: Any = adapted.peft_config["default"]
    with_embedding = "embed_tokens" in adapter_config.target_modules
    adapted.save_pretrained(str(folder), save_embedding_layers=with_embedding, state_dict=network_weights)
    write_card(card, folder)


def load_method(method: str, settings: Model) -> PreTrainedModel | PeftModel:
    """The base itself for `base`, else the base under the adapter in models/<method>; in evaluation mode.

    Raises:
        ArtifactError: the adapter is missing, or was trained on another base or tokenizer.
    """
    card = read_card()
    network = load_base(settings, card)
    if method == "base":
        return network
    folder = MODELS / method
    if not (folder / "adapter_model.safetensors").is_file():
        raise ArtifactError(f"{folder}: no adapter; run `dvc repro train@{method}` first")
    trained_on = read_card(folder)
    for name, expected in asdict(card).items():
        if (found := getattr(trained_on, name)) != expected:
            raise ArtifactError(
                f"{folder}: its base has {name} {found}, {BASE} has {expected}; run `dvc repro train@{method}`"
            )
    adapted = PeftModel.from_pretrained(network, str(folder))
    return adapted.to(device()).eval()
