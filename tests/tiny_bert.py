"""Save a random BERT of two layers, with a vocabulary of letters, like any checkpoint."""

from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModel, BertTokenizerFast

from pipeline.runtime.settings import EncoderRetriever

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"
VOCABULARY = {piece: place for place, piece in enumerate([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)])}


def save(folder: Path, seed: int = 0, kind: str = "bert") -> Path:
    """Save an encoder of a model_type of transformers, whose tokenizer is always BERT's."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "distilbert":
        sizes = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}
    config = CONFIG_MAPPING[kind](
        **sizes,
        vocab_size=len(VOCABULARY),
        max_position_embeddings=64,
        pad_token_id=VOCABULARY["[PAD]"],
        initializer_range=0.3,  # large enough that attention is far from uniform
    )
    network = AutoModel.from_config(config)
    network.pooler = None  # as in checkpoints whose embeddings are means
    network.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab=VOCABULARY)
    assert len(tokenizer) == len(VOCABULARY)
    tokenizer.save_pretrained(folder)
    return folder


def retriever(folder: Path, **changes: object) -> EncoderRetriever:
    values: dict[str, object] = {
        "kind": "encoder",
        "source": str(folder),
        "revision": None,
        "sha256": None,
        "pooling": "mean",
        "similarity": "dot",
        "max_tokens": 32,
        "title": True,
    }
    return EncoderRetriever.model_validate(values | changes)
