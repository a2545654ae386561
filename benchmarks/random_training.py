"""What the benchmarks of training work on: a random Mistral under an adapter, random rows, batches of them."""

# L tokens of a row, C chunks of a document

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from transformers import MistralConfig, MistralForCausalLM

from pipeline.model import causal_lm, collator, lora
from pipeline.model.distributed import Processes
from pipeline.training import grad_cache
from pipeline.training.dataset import MicroBatch, StepBatch
from pipeline.training.objective import Encoder, Objective
from pipeline.views import masking

# peft 0.21 asks transformers 5.23 by the old name of the property
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

PAD, BOS, MASK, FIRST = 0, 1, 3, 4  # token ids; random tokens are drawn from FIRST on
LORA: Any = {"rank": 8, "alpha": 16, "dropout": 0.0, "embedding": "lora", "norms": True, "mask_id": MASK}
Negatives = Literal["graph", "cached"]
FOCUSED = Objective(1.0, 1.0, 0.1, 0.05, "last_prompt", "keep")


def network(
    *, vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, tokens: int, dtype: torch.dtype, device: Any
) -> Any:
    """A Mistral with random weights, without a window; on the device from the start, for 7B in fp32 is 27 GiB."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=7 * hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=tokens,
        sliding_window=None,
    )
    standard = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return MistralForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(standard)


def encoder_of(whole: Any) -> Encoder:
    """The model under a LoRA adapter that is not zero (B = 0 would hide errors in the gradient of A), in training."""
    adapted = lora.add_adapter(whole, **LORA)
    generator = torch.Generator(whole.device).manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, device=parameter.device, dtype=torch.float32)
            parameter.data += 0.02 * noise.to(parameter.dtype)
    return Encoder(adapted, FOCUSED).train()


def checkpoint(encoder: Encoder, on: bool) -> None:
    """Activation checkpointing of every layer; transformers before 5.2x knows it by another name."""
    whole = causal_lm.unwrap(encoder.network)
    names = ("activation_checkpointing", "gradient_checkpointing")
    name = next(name for name in names if hasattr(whole, f"{name}_enable"))
    if on:
        getattr(whole, f"{name}_enable")({"use_reentrant": False})
    else:
        getattr(whole, f"{name}_disable")()


class Examples(NamedTuple):
    """Random questions: the full view of each, its masked views by mode, and all in one row where they share one
    document."""

    full: list[collator.TokenRow]
    masked: dict[masking.Mode, list[collator.TokenRow]]
    shared: collator.TokenRow | None


def examples(
    num: int, *, tokens: int, answer: int, chunks: int, keep: int, vocab: int, one_document: bool = False
) -> Examples:
    """Views of L = `tokens`: BOS, C = `chunks` chunks of L // (C + 1) tokens, the question with what is left, the
    answer. Each question keeps `keep` chunks of its own choice."""
    draw = np.random.default_rng(0)
    size = tokens // (chunks + 1)
    context = 1 + chunks * size
    assert tokens - context > answer, f"{tokens} tokens leave no question beside {chunks} chunks and the answer"
    starts, ends = (np.arange(chunks, dtype=np.int32) * size + offset for offset in (1, 1 + size))

    def ids(num_tokens: int) -> collator.Ints:
        return draw.integers(FIRST, vocab, num_tokens).astype(np.int32)

    documents = [ids(context - 1) for _ in range(1 if one_document else num)] * (num if one_document else 1)
    bos = np.array([BOS], dtype=np.int32)
    views = [np.concatenate([bos, document, ids(tokens - context)]) for document in documents]
    prompt_end = tokens - answer
    masked: dict[masking.Mode, list[collator.TokenRow]] = {"token": [], "skip": []}
    for view in views:
        kept = np.isin(np.arange(chunks), draw.choice(chunks, keep, replace=False))
        for mode, made in masked.items():
            made.append(collator.row_of_one(*masking.masked_view(view, starts, ends, prompt_end, kept, mode, MASK)))
    places = np.arange(tokens, dtype=np.int32)
    full = [collator.row_of_one(view, places, prompt_end) for view in views]
    return Examples(full, masked, collator.row_of_many(full, context) if one_document else None)


def batch(
    num: int,
    full: Sequence[collator.TokenRow],
    masked: Sequence[collator.TokenRow] = (),
    *,
    batch_tokens: int = 1,
    device: Any = "cpu",
) -> StepBatch:
    """One step over `num` examples; `full` is a row each, or one row of all. 1 batch token: each row goes alone."""
    places = [list(range(num))] if len(full) < num else [[place] for place in range(num)]
    places += [[num + place] for place in range(len(masked))]
    rows = [*full, *masked]
    micro_batches = [
        MicroBatch(
            collator.collate([rows[index] for index in group], PAD),
            torch.tensor([place for index in group for place in places[index]]),
        )
        for group in collator.group_rows(rows, batch_tokens)
    ]
    labels = [
        sum(segment.end - segment.prompt_end for row in side for segment in row.segments) for side in (full, masked)
    ]
    return StepBatch(micro_batches, num, labels[0], labels[1], None).to(torch.device(device))


def accumulate(encoder: Encoder, made: StepBatch, objective: Objective, negatives: Negatives = "graph") -> None:
    grad_cache.accumulate(encoder, made, objective, negatives, Processes())
