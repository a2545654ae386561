"""Save a random encoder in the folder format of sentence-transformers: modules, pooling, prompts."""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen3Config

from pipeline.runtime.settings import SentenceTransformerRetriever
from tests import tiny_bert


def save(folder: Path, kind: str = "bert", prompts: dict[str, str] | None = None) -> Path:
    """Save a BERT or RoBERTa with mean pooling and normalisation, or a Qwen3 that reads 2,000 tokens, pads on the left
    and takes the state of the last token."""
    torch.manual_seed(0)
    if kind == "qwen3":
        _save_qwen3(folder / "plain")
    else:
        tiny_bert.save(folder / "plain", kind=kind)
    transformer = modules.Transformer(str(folder / "plain"))
    pooling = modules.Pooling(transformer.get_embedding_dimension(), "lasttoken" if kind == "qwen3" else "mean")
    made = SentenceTransformer(modules=[transformer, pooling, modules.Normalize()], prompts=prompts, device="cpu")
    made.save(str(folder / kind), create_model_card=False)
    return folder / kind


def _save_qwen3(folder: Path) -> None:
    vocabulary = {piece: place for place, piece in enumerate(["<unk>", "<end>", " ", *tiny_bert.LETTERS])}
    letters = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    letters.pre_tokenizer = Split("", "isolated")
    letters.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    names = {"unk_token": "<unk>", "eos_token": "<end>", "pad_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=letters, padding_side="left", **names).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(
        **sizes, head_dim=8, num_key_value_heads=1, vocab_size=len(vocabulary), max_position_embeddings=2000,
        initializer_range=0.3,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)


def retriever(folder: Path, **changes: Any) -> SentenceTransformerRetriever:
    values: dict[str, Any] = {
        "kind": "sentence_transformer",
        "source": str(folder),
        "revision": None,
        "sha256": None,
        "query_prompt": "query: ",
        "passage_prompt": "passage: ",
        "similarity": "cosine",
        "max_tokens": 48,
        "title": True,
    }
    return SentenceTransformerRetriever.model_validate(values | changes)
