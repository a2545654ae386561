"""A random BERT of two layers with a letter-by-letter vocabulary, saved like any checkpoint."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from pipeline.runtime.settings import EncoderRetriever

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"
VOCABULARY = {piece: place for place, piece in enumerate([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)])}


def save(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,  # large enough that attention is far from uniform
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
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
