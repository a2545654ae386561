"""Base weights, tokenizer and adapters on disk: found, checked against the card of the base, loaded, saved.

The card, `models/base/base.json`, names the weights, the tokenizer and the special ids for all later stages. An adapter
has a copy of the card of its base beside it, which is checked before anything large is read.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging

from pipeline.common import files, pretrained
from pipeline.common.base_card import BASE, CARD, MODELS, BaseCard, read_card, write_card
from pipeline.common.device import attention, device
from pipeline.model import causal_lm, lora
from pipeline.runtime.errors import ArtifactError, ResourceError, one_line
from pipeline.runtime.settings import ModelSettings

if not sys.stderr.isatty():
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers ships no type for it

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TRAINED = "trained.json"
"""Beside an adapter: how it was trained, and what of the base."""
PATTERNS = ["*.safetensors", "*.json", "tokenizer.model"]


def find_base(settings: ModelSettings) -> Path:
    """Return the local folder of the base: `source` itself, the hub's snapshot of it, or models/base for a GGUF file.

    No code in it is ever run.

    Raises:
        ArtifactError: `source` is neither a folder nor reachable, its safetensors files are missing or broken, or
            transformers does not know the model by itself.
    """
    if settings.is_gguf:
        return BASE  # stage base has made safetensors of it
    folder = Path(settings.source)
    if not folder.is_dir():
        remedy = "put the model's files in a folder and set model.source to its path"
        with pretrained.from_hub(f"model.source {settings.source!r} is no local folder", settings.revision, remedy):
            snapshot = snapshot_download(
                settings.source, revision=settings.revision, allow_patterns=PATTERNS, ignore_patterns="*/*"
            )
        folder = Path(snapshot)
    if (folder / CONFIG).is_file() and not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder}: this is a PEFT adapter, not a base; merge it into its base (merge_and_unload), and set "
            "model.source to the merged model"
        )
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ArtifactError(f"{folder}: no .safetensors file{_other_weights(folder)}")
    for path in paths:
        tensor_names(path, "fetch it again")
    try:
        kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{folder / 'config.json'}: no model's configuration ({error!r}); restore it") from None
    if kind not in CONFIG_MAPPING:
        raise ArtifactError(
            f"{folder / 'config.json'}: model_type {kind!r} is none that transformers knows, and code that comes with "
            "weights is not run; choose another model"
        )
    return folder


def _other_weights(folder: Path) -> str:
    """Go on in a sentence about weights that are not there: which others are, and what to do."""
    if found := sorted(folder.glob("*.gguf")):
        return f", but {found[0].name}; set model.source to that file"
    if found := sorted(path for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack")):
        return (
            f", but {found[0].name}, which is not opened because it may run code; if you trust it, convert it: load "
            "the folder with transformers' AutoModelForCausalLM.from_pretrained, write model and tokenizer with "
            "save_pretrained into another folder, and set model.source to that one"
        )
    return (
        " and no other weights (of a model on the hub only safetensors are fetched); fetch those of the model into "
        "this folder, or set model.source to one that has them"
    )


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


def configuration(folder: Path, settings: ModelSettings) -> Any:
    """Read the configuration of the base in the folder, with the window that the settings give it.

    Raises:
        ArtifactError: it is broken, or none of a model of text alone that predicts the next token.
        ConfigError: model.sliding_window is a number of tokens, and no layer has a window.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each family checks its configuration in its own way
        raise ArtifactError(f"{folder / 'config.json'}: cannot be read ({one_line(error)}); restore it") from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.sub_configs:
        raise ArtifactError(
            f"{folder}: a {config.model_type} model is none of text alone that predicts the next token; choose the "
            "text model of its family, or another one"
        )
    causal_lm.set_window(config, settings.sliding_window)
    return config


def skeleton(config: Any, attention: str | None = None) -> PreTrainedModel:
    """Build the model of a configuration on the meta device: every module, and no memory for weights.

    Args:
        attention: its implementation, by transformers' name; None: the model's own choice.

    Raises:
        ArtifactError: the sizes in the configuration do not go together.
    """
    try:
        with torch.device("meta"):
            # The other implementations of experts look at values, which are none on this device.
            network: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # has no type
                config, attn_implementation=attention, experts_implementation="batched_mm"
            )
    except Exception as error:  # each family checks its configuration in its own way
        raise ArtifactError(
            f"a model of type {config.model_type!r} cannot be built of this config.json ({one_line(error)}); restore it"
        ) from None
    return network


def load(folder: Path, **options: Any) -> PreTrainedModel:
    """Load as transformers does with these options, but for weights that it would draw at random: they are an error.

    Raises:
        ArtifactError: a file is missing, or the files lack weights of the model that config.json describes, or have
            them in other shapes.
        ResourceError: the weights are quantized, and a package that reads them is missing.
    """
    verbosity = logging.get_verbosity()
    # Its report of such weights has a line for each.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers ships no type for it
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
    except ImportError as error:
        raise ResourceError(
            f"{folder}: its weights cannot be loaded ({one_line(error)}); install that, or choose weights that are not "
            "quantized"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{folder}: its weights cannot be loaded ({one_line(error)}); restore the files") from None
    finally:
        logging.set_verbosity(verbosity)
    network, loading_info = found  # with output_loading_info it is a pair, which the declared type leaves out
    pretrained.require_weights(loading_info, folder)
    loaded: PreTrainedModel = network
    return loaded


def load_base(settings: ModelSettings, card: BaseCard, on: str | None = None) -> PreTrainedModel:
    """Load the base in evaluation mode on the device (or `on` another), its vocabulary resized to the tokenizer's.

    Raises:
        ArtifactError: the weights are not those of the card, or as `load`.
        ConfigError: as `configuration`.
    """
    folder = find_base(settings)
    if (found := digest(folder)) != card.sha256:
        raise ArtifactError(
            f"{folder}: weights have sha256 {found}, {BASE / CARD} says {card.sha256}; run `dvc repro -f base`"
        )
    config = configuration(folder, settings)
    network: Any = load(
        folder,
        config=config,
        dtype=getattr(torch, settings.dtype),
        attn_implementation=attention(),
        use_safetensors=True,
    )
    causal_lm.resize(network, card.vocab_size)
    loaded: PreTrainedModel = network.to(on or device()).eval()
    return loaded


def is_on_hub(card: BaseCard) -> bool:
    """Whether the source of the base names a repository of the hub, by the rule of `find_base`."""
    return card.gguf_sha256 is None and not Path(card.source).is_dir()


def copy_tokenizer(card: BaseCard, folder: Path) -> None:
    """Copy the tokenizer of models/base into the folder, under a class name that other tools know.

    Raises:
        ArtifactError: it is not the card's.
    """
    if (found := tokenizer_sha256(BASE)) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{BASE}: its tokenizer has sha256 {found}, the card says {card.tokenizer_sha256}; run `dvc repro -f base`"
        )
    for path in BASE.iterdir():
        if path.name not in (CARD, "config.json", "generation_config.json") and ".safetensors" not in path.name:
            shutil.copyfile(path, folder / path.name)
    settings = folder / TOKENIZER_CONFIG
    if settings.is_file():
        written = files.read_json(settings, "base")
        if written.get("tokenizer_class") == "TokenizersBackend":  # a name of transformers 5; this is its name before
            files.write_json(settings, written | {"tokenizer_class": "PreTrainedTokenizerFast"})


def tokenizer_sha256(folder: Path) -> str:
    """Return the SHA-256 of the folder's tokenizer.json, or "of no file", which equals no digest."""
    path = folder / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "of no file"


# peft 0.21 asks transformers 5.23 by the old name of a property; nothing for the user to act on.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


@contextmanager
def saving() -> Iterator[None]:
    """Raise the error that safetensors meets at a full disk as the OSError that it is."""
    try:
        yield
    except SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


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
    name = card.source if card.gguf_sha256 is None else str(BASE)
    settings.base_model_name_or_path, settings.revision = name, card.revision
    # True or False, not "auto": auto asks the hub for the base's config.
    with_embedding = lora.saves_base_embedding(adapted)
    state = lora.state_to_save(adapted, network_weights)
    with saving():
        adapted.save_pretrained(str(folder), state_dict=state, save_embedding_layers=with_embedding)
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
