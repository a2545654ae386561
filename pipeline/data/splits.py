"""Which documents of the training files are held out: whole documents, never single questions of one."""

import hashlib
from collections.abc import Iterable


def held_out(document_ids: Iterable[str], *, dev_fraction: float, test_fraction: float, seed: int) -> dict[str, str]:
    """train, dev or test for each document, by the digest of seed and id: what stands beside it changes little.

    The shares are rounded to whole documents, at least one where the share is above 0; dev is filled first.
    """
    ordered = sorted(set(document_ids), key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest())
    num_dev, num_test = (
        max(1, round(share * len(ordered))) if share > 0.0 else 0 for share in (dev_fraction, test_fraction)
    )
    return {
        name: "dev" if place < num_dev else "test" if place < num_dev + num_test else "train"
        for place, name in enumerate(ordered)
    }
