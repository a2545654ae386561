"""The shape of a model, read from its config.json: the numbers that FLOPs and memory are computed from.

A layer is attention (query, key, value and output projections) and an MLP: gated (three matrices: Llama, Mistral, Qwen)
or plain (two: BERT and the other encoders of pipeline/retrieval/encoder.py). It has two norms; one more norm follows
the last layer. ALBERT's shared weights are counted in each of its layers, so that its memory is an upper bound.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.settings import EncoderRetriever, ModelSettings, Positive

GATED = ("llama", "mistral", "qwen2", "qwen3", "ministral")
BYTES = {"float32": 4, "bfloat16": 2}
PUBLISHED = {
    "mistralai/Mistral-7B-v0.1": "mistral",
    "facebook/contriever": "bert",
    "facebook/contriever-msmarco": "bert",
}
"""Models of conf/ whose sizes are the defaults of their kind in transformers, so that a plan needs no network."""


class Shape(BaseModel):
    """The sizes of one transformer, read from the keys of its config.json; DistilBERT's have names of their own."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

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
    bytes_per_weight: int
    """Bytes of a weight and of a number computed with it: 4 (float32) or 2 (bfloat16)."""

    @property
    def window(self) -> int | None:
        """Tokens that a token sees, itself included; None: all before it."""
        return self.sliding_window if self.use_sliding_window else None

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.model_type in GATED else 2

    @property
    def attention(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * (self.head_dim or self.hidden // self.heads)

    @property
    def key_value(self) -> int:
        """Width of the keys of all heads; the values are as wide."""
        return self.attention * (self.kv_heads or self.heads) // self.heads

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
    try:
        return Shape.model_validate({**config, "bytes_per_weight": bytes_per_weight})
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
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return loaded
        except ValueError as error:
            raise ArtifactError(f"{path}: not valid JSON ({error}); restore the file") from None
    if source in PUBLISHED:
        from transformers import AutoConfig

        return AutoConfig.for_model(PUBLISHED[source]).to_dict()
    raise ArtifactError(
        f"{setting} {source!r}: its config.json is neither in a folder of that name nor in the hub's cache; fetch the "
        f"model with `dvc repro base`, or put its config.json in a folder and set {setting} to that"
    )
