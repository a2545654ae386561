"""Held-out documents: whole shares, the same every time."""

from collections import Counter

from pipeline.data import splits

NAMES = [f"story-{number}" for number in range(40)]


def test_shares_are_rounded_to_whole_documents():
    found = splits.held_out(NAMES, dev_fraction=0.1, test_fraction=0.25, seed=1)
    assert Counter(found.values()) == {"train": 26, "dev": 4, "test": 10}


def test_a_small_share_is_at_least_one_document_and_no_share_is_none():
    found = splits.held_out(NAMES[:3], dev_fraction=0.01, test_fraction=0.0, seed=1)
    assert Counter(found.values()) == {"train": 2, "dev": 1}


def test_the_order_and_repetition_of_the_ids_change_nothing_and_the_seed_does():
    shares = {"dev_fraction": 0.2, "test_fraction": 0.2}
    assert splits.held_out(NAMES, seed=1, **shares) == splits.held_out([*NAMES[::-1], *NAMES], seed=1, **shares)
    assert splits.held_out(NAMES, seed=1, **shares) != splits.held_out(NAMES, seed=2, **shares)
