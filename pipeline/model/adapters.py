"""Adapters on disk: saved with all that tells what they belong to, checked before anything large is read, loaded."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from transformers import PreTrainedModel

from pipeline.common import files
from pipeline.common.device import device
from pipeline.model import causal_lm, loading
from pipeline.runtime.errors import ArtifactError, ResourceError
from pipeline.runtime.sections import Model

# peft 0.21 asks transformers 5.23 by the old name of a property; nothing for the user to act on.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save(
    adapted: PeftModel,
    card: loading.BaseCard,
    folder: Path,
    network_weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """The adapter as PEFT writes it, with the tokenizer and the card of its base beside it.

    Weights are in the base's type, see `model.state_to_save`. Equal adapters are equal bytes. `network_weights` are
    those of the whole network where it is sharded over processes and does not hold them itself.

    Raises:
        ArtifactError: models/base has another tokenizer than the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loading.copy_tokenizer(card, folder)
    # The base by the name it was asked for, not by the folder that a hub's client keeps it in.
    settings: Any = adapted.peft_config["default"]
    settings.base_model_name_or_path, settings.revision = card.source, card.revision
    # True or False, not "auto": auto asks the hub for the base's config.
    with_embedding = causal_lm.saves_base_embedding(adapted)
    state = causal_lm.state_to_save(adapted, network_weights)
    try:
        adapted.save_pretrained(str(folder), state_dict=state, save_embedding_layers=with_embedding)
    except SafetensorError as error:  # of a full disk, which safetensors does not call an OSError
        raise ResourceError(
            f"{folder / WEIGHTS}: cannot be written ({error}); free some disk and run it again"
        ) from None
    written = files.read_json(folder / CONFIG, "train")
    # PEFT writes a set, in an order that changes from process to process.
    files.write_json(folder / CONFIG, written | {"target_modules": sorted(written["target_modules"])})
    loading.write_card(card, folder)


def find(method: str, card: loading.BaseCard) -> Path:
    """The folder of the method's adapter, checked in all that can be seen without loading the base.

    Raises:
        ArtifactError: a file is missing or broken, or the adapter was trained on another base or tokenizer.
    """
    folder, stage = loading.MODELS / method, f"train@{method}"
    again = f"run `dvc repro -f {stage}`"
    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(f"{folder}: no adapter; run `dvc repro {stage}` first")
    trained_on = loading.read_card(folder, stage)
    for name, expected in asdict(card).items():
        if (found := getattr(trained_on, name)) != expected:
            raise ArtifactError(
                f"{folder}: its base has {name} {found}, {loading.BASE} has {expected}; run `dvc repro {stage}`"
            )
    if (sha256 := loading.tokenizer_sha256(folder)) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{folder}: its tokenizer has sha256 {sha256}, {loading.BASE} has {card.tokenizer_sha256}; {again}"
        )
    loading.tensor_names(folder / WEIGHTS, again)
    settings = files.read_json(folder / CONFIG, stage)
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise ArtifactError(f"{folder / CONFIG}: no configuration of LoRA; {again}")
    return folder


def load_method(method: str, settings: Model) -> PreTrainedModel | PeftModel:
    """The base itself for `base`, else the base under the adapter in models/<method>; in evaluation mode.

    Raises:
        ArtifactError: as `find` and `weights.load_base`, or weights and configuration of the adapter do not fit.
    """
    card = loading.read_card()
    if method == "base":
        return loading.load_base(settings, card)
    folder = find(method, card)
    network = loading.load_base(settings, card)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", causal_lm.TIED, UserWarning)
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # an error below
            adapted = PeftModel.from_pretrained(network, str(folder))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{folder}: cannot be loaded ({reason}); run `dvc repro -f train@{method}`") from None
    asked = get_peft_model_state_dict(adapted, save_embedding_layers=causal_lm.saves_base_embedding(adapted))
    if differing := asked.keys() ^ loading.tensor_names(folder / WEIGHTS, f"run `dvc repro -f train@{method}`"):
        raise ArtifactError(
            f"{folder}: {CONFIG} and {WEIGHTS} do not belong together, they differ in {len(differing)} tensors, "
            f"{min(differing)} among them; run `dvc repro -f train@{method}`"
        )
    return adapted.to(device()).eval()
