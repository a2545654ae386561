"""The shape of a model: what its arithmetic and its memory are computed from. Read from config.json, not from weights.

A layer is attention (query, key, value and output projections) and an MLP: gated (three matrices: Llama, Mistral, Qwen)
or plain (two: BERT). Two norms a layer, one more at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.errors import ArtifactError

GATED = ("llama", "mistral", "qwen2", "qwen3", "ministral")
PLAIN = ("bert",)

PUBLISHED: dict[str, dict[str, Any]] = {
    # config.json of models that conf/ names, so that a plan needs no network.
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
    **{
        name: {
            "model_type": "bert",
            "num_hidden_layers": 12,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "vocab_size": 30522,
        }
        for name in ("facebook/contriever", "facebook/contriever-msmarco")
    },
}


@dataclass(frozen=True)
class Shape:
    """Counts of one transformer."""

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
    """Of the weights and of what is computed with them: 4 (float32) or 2 (bfloat16)."""
    tied: bool = False
    """The output layer is the embedding."""
    mlp_matrices: int = 3

    @property
    def attention(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of the keys of all heads; that of the values is the same."""
        return self.kv_heads * self.head_dim

    @property
    def matrix_weights(self) -> int:
        """Weights of one layer's matrices: what each token is multiplied with."""
        attention = 2 * self.hidden * (self.attention + self.key_value)
        return attention + self.mlp_matrices * self.hidden * self.intermediate

    @property
    def weights(self) -> int:
        """All of them; biases and BERT's position embeddings are left out (below 1 % of any model we know)."""
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

    def trainable(self, rank: int, *, embedding: bool, norms: bool) -> int:
        """Parameters of a LoRA adapter on the attention projections and, as set, on the embedding; of whole norms."""
        projections = 2 * (self.hidden + self.attention) + 2 * (self.hidden + self.key_value)
        total = self.layers * rank * projections
        total += rank * (self.vocabulary + self.hidden) if embedding else 0
        return total + ((2 * self.layers + 1) * self.hidden if norms else 0)


def read(config: Mapping[str, Any], bytes_per_weight: int, where: str) -> Shape:
    """The shape that a config.json tells; `where` names it in the error.

    Raises:
        ArtifactError: another kind of model, or a key is missing or no positive whole number.
    """
    kind = config.get("model_type")
    if kind not in (*GATED, *PLAIN):
        raise ArtifactError(
            f"{where}: model_type is {kind!r}; the cost is known for {', '.join((*GATED, *PLAIN))}; choose another "
            "model, or run without a plan"
        )
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    wrong = [f"{name} is {config.get(name, 'missing')!r}" for name in needed if not _positive(config.get(name))]
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
        mlp_matrices=2 if kind in PLAIN else 3,
    )


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
