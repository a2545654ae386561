"""The shape of a model, read from its config.json: the numbers that FLOPs and memory are computed from.

A layer is attention (query, key, value and output projections) and an MLP: gated (three matrices: Llama, Mistral, Qwen)
or plain (two: BERT and the other encoders of pipeline/retrieval/encoder.py). It has two norms; one more norm follows
the last layer. ALBERT's shared weights are counted in each of its layers, so that its memory is an upper bound.
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.settings import EncoderRetriever, ModelSettings

GATED = ("llama", "mistral", "qwen2", "qwen3", "ministral")
DISTILBERT = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}
"""The keys of DistilBERT's config.json that differ from those of all others."""
BYTES = {"float32": 4, "bfloat16": 2}

_CONTRIEVER = {
    "model_type": "bert",
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "vocab_size": 30522,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "mistralai/Mistral-7B-v0.1": {
        "model_type": "mistral",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "sliding_window": 4096,
    },
    "facebook/contriever": _CONTRIEVER,
    "facebook/contriever-msmarco": _CONTRIEVER,
}
"""config.json of the models that conf/ names, so that a plan needs no network."""


@dataclass(frozen=True)
class Shape:
    """The sizes of one transformer."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    window: int | None
    """Tokens that a token sees, itself included; None: all before it."""
    bytes_per_weight: int
    """Bytes of a weight and of a number computed with it: 4 (float32) or 2 (bfloat16)."""
    tied: bool = False
    """The output layer is the embedding."""
    mlp_matrices: int = 3

    @property
    def attention(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of the keys of all heads; the values are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def matrix_weights(self) -> int:
        """Weights in the matrices of one layer; each token is multiplied with all of them."""
        attention = 2 * self.hidden * (self.attention + self.key_value)
        return attention + self.mlp_matrices * self.hidden * self.intermediate

    @property
    def weights(self) -> int:
        """All weights but biases and BERT's position embeddings (below 1 % of any model we know)."""
        tables = (1 if self.tied or self.mlp_matrices == 2 else 2) * self.vocabulary * self.hidden
        return self.layers * (self.matrix_weights + 2 * self.hidden) + self.hidden + tables

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.weights * self.bytes_per_weight

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that one token leaves in the cache of generation."""
        return 2 * self.layers * self.key_value * self.bytes_per_weight

    @property
    def lora_width(self) -> int:
        """Inputs and outputs of one layer's attention projections: weights of LoRA on them, for each of its ranks."""
        return 2 * (self.hidden + self.attention) + 2 * (self.hidden + self.key_value)

    def trainable(self, rank: int, *, embedding: Literal["lora", "mask_token", "full", "none"], norms: bool) -> int:
        """Count the trained parameters: LoRA on the attention projections, `lora.embedding`, and whole norms."""
        of_embedding = {
            "lora": rank * (self.vocabulary + self.hidden),
            "mask_token": self.hidden,
            "full": self.vocabulary * self.hidden,
            "none": 0,
        }
        of_norms = (2 * self.layers + 1) * self.hidden if norms else 0
        return self.layers * rank * self.lora_width + of_embedding[embedding] + of_norms


def base(model: ModelSettings) -> Shape:
    """Read the shape of the base model, with the sliding window that its settings give it.

    Raises:
        ArtifactError: config.json is not on this machine, or is not that of a model whose cost is known.
    """
    found = _config(model.source, model.revision, "model.source")
    return parse({**found, "sliding_window": model.sliding_window}, BYTES[model.dtype], f"model {model.source}")


def encoder(retriever: EncoderRetriever) -> Shape:
    """Read the shape of a retriever's encoder, which computes in float32. Raises ArtifactError as `base` does."""
    found = _config(retriever.source, retriever.revision, "retriever.source")
    return parse(found, BYTES["float32"], f"retriever {retriever.source}")


def parse(config: Mapping[str, Any], bytes_per_weight: int, where: str) -> Shape:
    """Take the shape from the content of a config.json; `where` names the model in the error.

    Raises:
        ArtifactError: another kind of model, or a key is missing or no positive whole number.
    """
    from pipeline.retrieval.encoder import MODEL_TYPES  # imports torch

    kind, known = config.get("model_type"), (*GATED, *MODEL_TYPES)
    if kind not in known:
        raise ArtifactError(
            f"{where}: model_type is {kind!r}; the cost is known for {', '.join(known)}; choose another model, or run "
            "without a plan"
        )
    if kind == "distilbert":
        config = {DISTILBERT.get(name, name): value for name, value in config.items()}
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    found = {name: config.get(name) for name in needed}
    wrong = [f"{name} is {value!r}" for name, value in found.items() if type(value) is not int or value < 1]
    if wrong:
        raise ArtifactError(f"{where}: {', '.join(wrong)}; whole numbers of 1 and more are needed; restore the file")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    windowed = config.get("use_sliding_window", True)  # Qwen names a window and does not use it
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocabulary=config["vocab_size"],
        window=config.get("sliding_window") if windowed else None,
        bytes_per_weight=bytes_per_weight,
        tied=bool(config.get("tie_word_embeddings", False)),
        mlp_matrices=3 if kind in GATED else 2,
    )


def _config(source: str, revision: str | None, setting: str) -> dict[str, Any]:
    """Find config.json in a folder, a Python package, the hub's cache, or among the published ones."""
    path = Path(source) / "config.json"
    if source.startswith("package:"):
        package, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        places = spec.submodule_search_locations if spec else None
        path = Path(places[0]) / inside / "config.json" if places else path
    elif not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json", revision=revision) if source.count("/") == 1 else None
        path = Path(cached) if isinstance(cached, str) else path
    if path.is_file():
        try:
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return loaded
        except ValueError as error:
            raise ArtifactError(f"{path}: not valid JSON ({error}); restore the file") from None
    if source in PUBLISHED:
        return PUBLISHED[source]
    raise ArtifactError(
        f"{setting} {source!r}: its config.json is neither in a folder of that name nor in the hub's cache; fetch the "
        f"model with `dvc repro base`, or put its config.json in a folder and set {setting} to that"
    )
