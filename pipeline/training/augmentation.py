"""The documents of a full view in another order: against a model that answers from the places it likes best."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


def shuffled(
    input_ids_L: Ints, chunk_starts: Sequence[int], chunk_ends: Sequence[int], documents: Sequence[str], seed: list[int]
) -> Ints:
    """The token ids with the documents between the first chunk and the last in a drawn order, shape (L,).

    A document's chunks stay together and in order; what stands before the first chunk (BOS, instruction) and behind the
    last one (question, answer) stays where it is. Positions run on as before. Equal seeds draw equal orders.

    Args:
        chunk_starts, chunk_ends: token spans of the chunks, in context order, without a gap.
        documents: of each chunk.
    """
    if not len(chunk_starts):
        return input_ids_L
    first, last = chunk_starts[0], chunk_ends[-1]
    spans = list(zip(documents, chunk_starts, chunk_ends, strict=True))
    pieces: list[Ints] = []
    for _, group in groupby(spans, key=lambda span: span[0]):
        of_document = list(group)
        pieces.append(input_ids_L[of_document[0][1] : of_document[-1][2]])
    order = np.random.default_rng(seed).permutation(len(pieces))
    return np.concatenate([input_ids_L[:first], *(pieces[place] for place in order), input_ids_L[last:]])
