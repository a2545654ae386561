"""Which chunks hold the evidence: the rule of halves, by example, by counting characters, and what it promises."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.tables import Evidence, gold_flags


def flags(spans, *evidence):
    return list(gold_flags([("a", *span) for span in spans], [Evidence("a", *found) for found in evidence]))


@pytest.mark.parametrize(
    ("chunk", "evidence", "gold"),
    [
        ((0, 100), (40, 60), True),  # all of the evidence
        ((0, 100), (90, 110), True),  # half of the evidence
        ((0, 100), (91, 111), False),  # less than half of it
        ((0, 100), (50, 300), True),  # half of the chunk
        ((0, 100), (51, 300), False),  # less than half of either
        ((0, 100), (0, 300), True),  # all of the chunk
        ((0, 100), (100, 120), False),  # they touch
        ((0, 100), (200, 201), False),
    ],
)
def test_a_chunk_is_gold_when_it_shares_half_of_itself_or_of_the_evidence(chunk, evidence, gold):
    assert flags([chunk], evidence) == [gold]


def test_evidence_counts_in_its_own_document_only_and_any_piece_will_do():
    spans = [("a", 0, 10), ("b", 0, 10), ("b", 10, 20)]
    assert list(gold_flags(spans, [Evidence("b", 2, 4), Evidence("c", 0, 10)])) == [False, True, False]
    assert list(gold_flags(spans, [Evidence("a", 9, 10), Evidence("b", 9, 20)])) == [True, False, True]
    assert list(gold_flags(spans, [])) == [False, False, False]


spans = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).filter(lambda span: span[0] < span[1])


@given(spans, st.lists(spans, max_size=3))
def test_gold_agrees_with_counting_characters(chunk, evidence):
    inside = set(range(*chunk))
    expected = any(len(inside & set(range(*found))) * 2 >= min(len(inside), found[1] - found[0]) for found in evidence)
    assert flags([chunk], *evidence) == [expected]


@given(st.sets(st.integers(1, 29)), spans)
def test_evidence_in_a_document_that_is_cut_anywhere_has_a_gold_chunk_and_it_overlaps(cuts, evidence):
    borders = [0, *sorted(cuts), 30]
    chunks = list(pairwise(borders))
    found = flags(chunks, evidence)
    assert any(found)
    assert all(
        start < evidence[1] and evidence[0] < end for (start, end), gold in zip(chunks, found, strict=True) if gold
    )
