"""A random Mistral of two layers, small enough for every test."""

import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

PAD, BOS, EOS, MASK = 0, 1, 2, 3


def network(
    seed: int = 0, *, tied: bool = False, vocab_size: int = 48, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=None,
        tie_word_embeddings=tied,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.2,  # large enough that attention is far from uniform
    )
    return MistralForCausalLM(config).to(dtype).eval()
