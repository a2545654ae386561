"""Texts to embeddings with a BERT encoder, as facebookresearch/contriever @39fb2201 (src/contriever.py) does it.

Batches are sorted by length and have one shape per length: a text is padded to the next multiple of 16 tokens, and a
batch of such texts always has the same number of rows. So a text's embedding is the same to the last bit whatever
stands beside it, and a run that finds half of its texts in the cache gives the scores of one that finds none.
"""

# B texts of a batch, L tokens of its longest, D hidden

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

LENGTH_STEP = 16

Pooling = Literal["mean", "cls"]


class Batch(NamedTuple):
    """Texts that are encoded together."""

    indices: list[int]
    num_tokens: int
    """Of each row, padding included."""
    num_rows: int
    """At least len(indices); the rows beyond are filled with copies."""


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text between [CLS] and [SEP], not cut."""
    return list(tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]) if texts else []


def cut(ids: list[int], max_tokens: int) -> list[int]:
    """At most `max_tokens` ids, the last one still [SEP]."""
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def batches(lengths: Sequence[int], batch_tokens: int, max_tokens: int) -> Iterator[Batch]:
    """Group texts by padded length, longest first, `batch_tokens` or one row to a batch."""
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        padded = min(-(-length // LENGTH_STEP) * LENGTH_STEP, max_tokens)
        by_length.setdefault(padded, []).append(index)
    for padded, indices in sorted(by_length.items(), reverse=True):
        num_rows = max(1, batch_tokens // padded)
        for start in range(0, len(indices), num_rows):
            yield Batch(indices[start : start + num_rows], padded, num_rows)


def pool(hidden_BLD: Tensor, mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """embedding_BD in float32: the state of [CLS], or the mean over all but padding, [CLS] and [SEP] included."""
    if pooling == "cls":
        return hidden_BLD[:, 0].float()
    summed_BD = hidden_BLD.float().masked_fill(~mask_BL[:, :, None], 0.0).sum(dim=1)
    return summed_BD / mask_BL.sum(dim=1, keepdim=True)


@torch.inference_mode()
def embed(network: Any, rows: Sequence[list[int]], num_tokens: int, pad_id: int, pooling: Pooling) -> Tensor:
    """embedding_BD of a BERT without pooler for rows of token ids, each padded to `num_tokens`."""
    ids_BL = torch.full((len(rows), num_tokens), pad_id, dtype=torch.long)
    mask_BL = torch.zeros((len(rows), num_tokens), dtype=torch.bool)
    for row, ids in enumerate(rows):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        mask_BL[row, : len(ids)] = True
    ids_BL, mask_BL = ids_BL.to(network.device), mask_BL.to(network.device)
    # Given per query, the mask reaches attention as it is; transformers drops one per text when no text is padded,
    # and the attention without a mask is another kernel with other last bits.
    mask_B1LL = mask_BL[:, None, None, :].expand(-1, 1, num_tokens, -1)
    hidden_BLD = network(input_ids=ids_BL, attention_mask=mask_B1LL).last_hidden_state
    return pool(hidden_BLD, mask_BL, pooling)


def plan(ids: Sequence[list[int]], *, max_tokens: int, batch_tokens: int) -> Iterator[tuple[Batch, list[list[int]]]]:
    """Each batch, and the token ids of its texts; longer texts are cut."""
    rows = [cut(row, max_tokens) for row in ids]
    for batch in batches([len(row) for row in rows], batch_tokens, max_tokens):
        yield batch, [rows[index] for index in batch.indices]


def embed_batch(network: Any, batch: Batch, rows: Sequence[list[int]], *, pad_id: int, pooling: Pooling) -> Tensor:
    """embedding_BD of the texts of one batch, float32 on the CPU; the copies that fill it are left out."""
    filled = [*rows, *[rows[-1]] * (batch.num_rows - len(rows))]
    return embed(network, filled, batch.num_tokens, pad_id, pooling)[: len(rows)].cpu()


def embed_all(
    network: Any,
    planned: Iterable[tuple[Batch, list[list[int]]]],
    *,
    pad_id: int,
    pooling: Pooling,
) -> Iterator[tuple[list[int], Tensor]]:
    """For each batch of a plan: the indices of its texts and embedding_BD of these."""
    for batch, rows in planned:
        yield batch.indices, embed_batch(network, batch, rows, pad_id=pad_id, pooling=pooling)
