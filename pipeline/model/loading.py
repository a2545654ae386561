"""Base weights, tokenizer and adapters on disk: found, checked against the card of the base, loaded, saved.

The card, `models/base/base.json`, names the weights, the tokenizer and the special ids for all later stages. An adapter
has a copy of the card of its base beside it, which is checked before anything large is read.
"""

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from pipeline.common import files
from pipeline.common.base_card import BASE, CARD, MODELS, BaseCard, read_card, write_card
from pipeline.common.device import device
from pipeline.model import causal_lm, lora
from pipeline.runtime.errors import ArtifactError, ConfigError, ResourceError, one_line
from pipeline.runtime.settings import ModelSettings

if not sys.stderr.isatty():
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers ships no type for it

PATTERNS = ["*.safetensors", "*.json", "tokenizer.model"]


def find_base(settings: ModelSettings) -> Path:
    """Return the local folder of the base: `source` itself, or the hub's snapshot of it. No code in it is ever run.

    Raises:
        ArtifactError: `source` is neither a folder nor reachable, its safetensors files are missing or broken, or
            transformers does not know the model by itself.
    """
    folder = Path(settings.source)
    if not folder.is_dir():
        try:
            snapshot = snapshot_download(
                settings.source, revision=settings.revision, allow_patterns=PATTERNS, ignore_patterns="*/*"
            )
        except Exception as error:  # the hub's client raises a dozen kinds, those of its HTTP library among them
            raise ArtifactError(
                f"model.source {settings.source!r} is no local folder, and the hub gave nothing at revision "
                f"{settings.revision or 'main'} ({one_line(error)}); put the model's files in a folder and set "
                "model.source to its path"
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
    """Return the names in a safetensors file. Raises ArtifactError, which ends with the remedy, when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: no whole safetensors file ({error}); {remedy}") from None


def digest(folder: Path) -> str:
    """Return the SHA-256 of all safetensors files together, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: total)
    return total.hexdigest()


def load_base(settings: ModelSettings, card: BaseCard, on: str | None = None) -> PreTrainedModel:
    """Load the base in evaluation mode on the device (or `on` another), its vocabulary resized to the tokenizer's.

    Raises:
        ArtifactError: the weights are not those of the card.
        ConfigError: model.sliding_window is set for a model that has no window.
    """
    folder = find_base(settings)
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
    """Copy the tokenizer of models/base into the folder. Raises ArtifactError when it is not the card's."""
    if (found := tokenizer_sha256(BASE)) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{BASE}: its tokenizer has sha256 {found}, the card says {card.tokenizer_sha256}; run `dvc repro -f base`"
        )
    for path in BASE.iterdir():
        if path.name != CARD:
            shutil.copyfile(path, folder / path.name)


def tokenizer_sha256(folder: Path) -> str:
    """Return the SHA-256 of the folder's tokenizer.json, or "of no file", which equals no digest."""
    path = folder / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "of no file"


# peft 0.21 asks transformers 5.23 by the old name of a property; nothing for the user to act on.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save_adapter(
    adapted: PeftModel,
    card: BaseCard,
    folder: Path,
    network_weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Save the adapter as PEFT writes it, with the tokenizer and the card of its base beside it.

    Weights are in the base's type (lora.state_to_save). Equal adapters give equal bytes. `network_weights` are those of
    the whole network, where it is sharded over processes and does not hold them itself.

    Raises:
        ArtifactError: models/base has another tokenizer than the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(card, folder)
    # The base by the name it was asked for, not by the folder that a hub's client keeps it in.
    settings: Any = adapted.peft_config["default"]
    settings.base_model_name_or_path, settings.revision = card.source, card.revision
    # True or False, not "auto": auto asks the hub for the base's config.
    with_embedding = lora.saves_base_embedding(adapted)
    state = lora.state_to_save(adapted, network_weights)
    try:
        adapted.save_pretrained(str(folder), state_dict=state, save_embedding_layers=with_embedding)
    except SafetensorError as error:  # of a full disk, which safetensors does not call an OSError
        raise ResourceError(
            f"{folder / WEIGHTS}: cannot be written ({error}); free some disk and run it again"
        ) from None
    written = files.read_json(folder / CONFIG, "train")
    # PEFT writes a set, in an order that changes from process to process.
    files.write_json(folder / CONFIG, written | {"target_modules": sorted(written["target_modules"])})
    write_card(card, folder)


def find_adapter(method: str, card: BaseCard) -> Path:
    """Return the folder of the method's adapter, after every check that needs no base weights.

    Raises:
        ArtifactError: a file is missing or broken, or the adapter was trained on another base or tokenizer.
    """
    folder, stage = MODELS / method, f"train@{method}"
    again = f"run `dvc repro -f {stage}`"
    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(f"{folder}: no adapter; run `dvc repro {stage}` first")
    trained_on = read_card(folder, stage)
    for name, expected in asdict(card).items():
        if (found := getattr(trained_on, name)) != expected:
            raise ArtifactError(
                f"{folder}: its base has {name} {found}, {BASE} has {expected}; run `dvc repro {stage}`"
            )
    if (sha256 := tokenizer_sha256(folder)) != card.tokenizer_sha256:
        raise ArtifactError(f"{folder}: its tokenizer has sha256 {sha256}, {BASE} has {card.tokenizer_sha256}; {again}")
    tensor_names(folder / WEIGHTS, again)
    settings = files.read_json(folder / CONFIG, stage)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise ArtifactError(f"{folder / CONFIG}: no configuration of LoRA; {again}")
    return folder


def load_method(method: str, settings: ModelSettings) -> PreTrainedModel | PeftModel:
    """Load the base, for another method than `base` under the adapter in models/<method>, in evaluation mode.

    Raises:
        ArtifactError: as `find_adapter` and `load_base`, or weights and configuration of the adapter do not fit.
    """
    card = read_card()
    if method == "base":
        return load_base(settings, card)
    folder = find_adapter(method, card)
    network = load_base(settings, card)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", lora.TIED, UserWarning)
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # an error below
            adapted = PeftModel.from_pretrained(network, str(folder))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: cannot be loaded ({one_line(error)}); run `dvc repro -f train@{method}`"
        ) from None
    asked = get_peft_model_state_dict(adapted, save_embedding_layers=lora.saves_base_embedding(adapted))
    if differing := asked.keys() ^ tensor_names(folder / WEIGHTS, f"run `dvc repro -f train@{method}`"):
        raise ArtifactError(
            f"{folder}: {CONFIG} and {WEIGHTS} do not belong together, they differ in {len(differing)} tensors, "
            f"{min(differing)} among them; run `dvc repro -f train@{method}`"
        )
    return adapted.to(device()).eval()
