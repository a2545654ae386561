"""The shape of a model, read from its config.json: the numbers that FLOPs and memory are computed from.

A layer is attention (query, key, value and output projections) and an MLP: gated (three matrices: Llama, Mistral)
or plain (two: BERT and the other encoders of pipeline/retrieval/encoder.py). It has two norms; one more norm follows
the last layer. ALBERT's shared weights are counted in each of its layers, so that its memory is an upper bound.
Every other decoder is built on the meta device, which has no memory, and measured there.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pipeline.common.base_card import BASE, CARD, read_card
from pipeline.runtime.errors import ArtifactError, ConfigError, one_line
from pipeline.runtime.settings import DenseRetriever, ModelSettings, Positive

GATED = ("llama", "mistral", "qwen2", "qwen3", "ministral")
QUERIES_NORMED = ("qwen3",)  # the formula leaves out these norms, which only a base trains
ENCODERS = ("albert", "bert", "camembert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta")
BYTES = {"float32": 4, "bfloat16": 2}
_TOKENS = 64  # of the shorter forward that is measured
PUBLISHED = {
    "mistralai/Mistral-7B-v0.1": "mistral",
    "facebook/contriever": "bert",
    "facebook/contriever-msmarco": "bert",
    "intfloat/e5-base-v2": "bert",
    "BAAI/bge-base-en-v1.5": "bert",
}
"""Models of conf/ whose sizes are the defaults of their kind in transformers, so that a plan needs no network."""


@dataclass(frozen=True)
class Shape:
    """The sizes of one transformer."""

    layers: int
    hidden: int
    intermediate: int
    """Width inside the MLP."""
    heads: int
    attention: int
    """Width of the queries of all heads."""
    key_value: int
    """Width of the keys of all heads; the values are as wide."""
    vocabulary: int
    window: int | None
    """Tokens that a token sees in the layers that see least, itself included; None: all before it."""
    matrix_weights: float
    """Weights in the matrices of a layer that each token is multiplied with."""
    lora_width: float
    """Inputs and outputs of a layer's attention projections: weights of LoRA on them, for each of its ranks."""
    norm_weights: int
    """Weights of all norms."""
    weights: int
    """All weights."""
    bytes_per_weight: int
    """Bytes of a weight and of a number computed with it: 4 (float32) or 2 (bfloat16)."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.weights * self.bytes_per_weight

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that one token leaves in the cache of generation."""
        return 2 * self.layers * self.key_value * self.bytes_per_weight

    @property
    def norms(self) -> int:
        """Norms of a layer, of the width of its hidden states."""
        return round((self.norm_weights / self.hidden - 1) / self.layers)

    def trainable(self, rank: int, *, embedding: Literal["lora", "mask_token", "full", "none"], norms: bool) -> int:
        """Count the trained parameters: LoRA on the attention projections, `lora.embedding`, and whole norms."""
        of_embedding = {
            "lora": rank * (self.vocabulary + self.hidden),
            "mask_token": self.hidden,
            "full": self.vocabulary * self.hidden,
            "none": 0,
        }
        of_norms = self.norm_weights if norms else 0
        return round(self.layers * rank * self.lora_width) + of_embedding[embedding] + of_norms


class _Keys(BaseModel):
    """The keys of a config.json that the formula reads; DistilBERT's have names of their own."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model_type: str
    layers: Positive = Field(validation_alias=AliasChoices("num_hidden_layers", "n_layers"))
    hidden: Positive = Field(validation_alias=AliasChoices("hidden_size", "dim"))
    intermediate: Positive = Field(validation_alias=AliasChoices("intermediate_size", "hidden_dim"))
    heads: Positive = Field(validation_alias=AliasChoices("num_attention_heads", "n_heads"))
    kv_heads: Positive | None = Field(default=None, validation_alias="num_key_value_heads")
    """None: as many as heads."""
    head_dim: Positive | None = None
    vocabulary: Positive = Field(validation_alias="vocab_size")
    sliding_window: Positive | None = None
    use_sliding_window: bool = True
    """Qwen names a window and does not use it."""
    tied: bool = Field(default=False, validation_alias="tie_word_embeddings")
    """The output layer is the embedding."""

    def shape(self, bytes_per_weight: int) -> Shape:
        """Compute the sizes. Biases and BERT's position embeddings (below 1 % of any model we know) are not counted."""
        is_gated = self.model_type in GATED
        attention = self.heads * (self.head_dim or self.hidden // self.heads)
        key_value = attention * (self.kv_heads or self.heads) // self.heads
        matrices = 2 * self.hidden * (attention + key_value) + (2 + is_gated) * self.hidden * self.intermediate
        norm_weights = (2 * self.layers + 1) * self.hidden
        tables = (2 if is_gated and not self.tied else 1) * self.vocabulary * self.hidden
        return Shape(
            self.layers,
            self.hidden,
            self.intermediate,
            self.heads,
            attention,
            key_value,
            self.vocabulary,
            window=self.sliding_window if self.use_sliding_window else None,
            matrix_weights=matrices,
            lora_width=2 * (self.hidden + attention) + 2 * (self.hidden + key_value),
            norm_weights=norm_weights,
            weights=self.layers * matrices + norm_weights + tables,
            bytes_per_weight=bytes_per_weight,
        )


def base(model: ModelSettings) -> tuple[Shape, str]:
    """Find the shape of the base model, with the sliding window that its settings give it.

    Returns:
        The shape, and what causal_lm.length_warning tells of model.max_tokens.

    Raises:
        ArtifactError: config.json is not on this machine, or is not that of a model that can be trained; or stage base
            has not taken the GGUF file apart yet.
        ConfigError: as `causal_lm.set_window`, `causal_lm.windows` and `causal_lm.length_warning`.
    """
    source = model.source
    if model.is_gguf:
        source = str(BASE)
        if not (BASE / CARD).is_file() or read_card().source != model.source:
            raise ArtifactError(
                f"model.source {model.source!r}: stage base takes a GGUF file apart, and models/base is not of this "
                "one; run `dvc repro base` first"
            )
    found, size = _config(source, model.revision, "model.source"), BYTES[model.dtype]
    from transformers import CONFIG_MAPPING  # imports torch

    from pipeline.model import causal_lm

    kind = str(found.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ArtifactError(f"model {model.source}: transformers knows no model_type {kind!r}; choose another model")
    try:
        config = CONFIG_MAPPING[kind].from_dict(found)
        warning = causal_lm.length_warning(config, model.max_tokens)
    except ConfigError:
        raise
    except Exception as error:  # each family checks its configuration in its own way
        raise ArtifactError(
            f"model {model.source}: its config.json cannot be read ({one_line(error)}); restore it"
        ) from None
    causal_lm.set_window(config, model.sliding_window)
    if kind in set(GATED) - set(QUERIES_NORMED):
        window = {} if model.sliding_window == "own" else {"sliding_window": model.sliding_window}
        return parse({**found, **window}, size, f"model {model.source}"), warning
    return measure(config, size), warning


def measure(config: Any, bytes_per_weight: int) -> Shape:
    """Measure a decoder on the meta device: FLOPs by torch's counter, weights by its modules.

    Eager attention multiplies all pairs of tokens, so that forwards of two lengths tell what a token and what a pair
    costs. Of experts, those that a token is sent to are counted, and all are held.

    Raises:
        ArtifactError: as `lora.parts`.
        ConfigError: as `causal_lm.windows`.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline.model import causal_lm, loading, lora

    windows = causal_lm.windows(config).values()
    network: Any = loading.skeleton(config, attention="eager")
    found = lora.parts(network)
    flops = []
    for tokens in (_TOKENS, 2 * _TOKENS):
        ids_1L = torch.zeros((1, tokens), dtype=torch.long, device="meta")
        # As in causal_lm.lets_attention_be_read.
        mask_11LL = torch.zeros((1, 1, tokens, tokens), device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.base_model(input_ids=ids_1L, attention_mask=mask_11LL, position_ids=ids_1L, use_cache=False)
        flops.append(counter.get_total_flops())
    of_pair = (flops[1] - 2 * flops[0]) / (2 * _TOKENS**2)
    of_token = flops[0] / _TOKENS - _TOKENS * of_pair
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    attention = round(of_pair / (4 * layers))
    projections = [network.get_submodule(name).weight for name in found.attention]
    norms = [network.get_submodule(name) for name in found.norms]
    return Shape(
        layers,
        config.hidden_size,
        _intermediate(config),
        heads,
        attention,
        attention * (getattr(config, "num_key_value_heads", None) or heads) // heads,
        config.vocab_size,
        window=min((window for window in windows if window is not None), default=None),
        matrix_weights=of_token / (2 * layers),
        lora_width=sum(sum(weight.shape) for weight in projections) / layers,
        norm_weights=sum(weight.numel() for norm in norms for weight in norm.parameters(recurse=False)),
        weights=sum(weight.numel() for weight in network.parameters()),
        bytes_per_weight=bytes_per_weight,
    )


def _intermediate(config: Any) -> int:
    """Width inside the MLP, or inside all experts that a token is sent to."""
    width = getattr(config, "moe_intermediate_size", None) or getattr(config, "intermediate_size", None)
    return int(width or 4 * config.hidden_size) * int(getattr(config, "num_experts_per_tok", None) or 1)


def encoder(retriever: DenseRetriever) -> Shape:
    """Read the shape of a retriever's encoder, which computes in float32. Raises ArtifactError as `base` does."""
    found = _config(retriever.source, retriever.revision, "retriever.source")
    return parse(found, BYTES["float32"], f"retriever {retriever.source}")


def parse(config: Mapping[str, Any], bytes_per_weight: int, where: str) -> Shape:
    """Take the shape from the content of a config.json; `where` names the model in the error.

    Raises:
        ArtifactError: another kind of model, or a key is missing or no positive whole number.
    """
    kind, known = config.get("model_type"), (*GATED, *ENCODERS)
    if kind not in known:
        raise ArtifactError(
            f"{where}: model_type is {kind!r}; the cost is known for {', '.join(known)}; choose another model, or run "
            "without a plan"
        )
    try:
        return _Keys.model_validate(config).shape(bytes_per_weight)
    except ValidationError as error:
        wrong = ", ".join(
            f"{each['loc'][0]} is {'missing' if each['type'] == 'missing' else repr(each['input'])}"
            for each in error.errors()
        )
        raise ArtifactError(f"{where}: {wrong}; whole numbers of 1 and more are needed; restore the file") from None


def _config(source: str, revision: str | None, setting: str) -> dict[str, Any]:
    """Find config.json in a folder, a Python package, the hub's cache, or among the published ones."""
    path = Path(source) / "config.json"
    if source.startswith("package:"):
        package, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        places = spec.submodule_search_locations if spec else None
        path = Path(places[0]) / inside / "config.json" if places else path
    elif not path.is_file() and source.count("/") == 1:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json", revision=revision)
        path = Path(cached) if isinstance(cached, str) else path
    if path.is_file():
        try:
            loaded: Any = json.loads(path.read_text(encoding="utf-8"))
            return {**loaded, "model_type": str(loaded["model_type"])}
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: not a model's configuration ({error!r}); restore the file") from None
    if source in PUBLISHED:
        from transformers import AutoConfig

        return AutoConfig.for_model(PUBLISHED[source]).to_dict()
    raise ArtifactError(
        f"{setting} {source!r}: its config.json is neither in a folder of that name nor in the hub's cache; fetch the "
        f"model with `dvc repro base`, or put its config.json in a folder and set {setting} to that"
    )
