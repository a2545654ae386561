"""Attention taught by the retriever: targets, chosen tokens, and the loss against a loop that says what it does."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model import causal_lm, collator
from pipeline.model.collator import NO_CHUNK, TokenRow
from pipeline.training import attention
from pipeline.training.attention import AttentionLoss, AttentionTarget
from tests.model import tiny


def test_the_best_chunks_share_the_target_equally():
    target = AttentionTarget("top", top_k=2, temperature=1.0)
    scores_C, ranks_C = np.array([0.1, 0.9, 0.5], dtype=np.float32), np.array([2, 0, 1], dtype=np.int32)
    assert target.shares(scores_C, ranks_C).tolist() == [0.0, 0.5, 0.5]
    assert target._replace(top_k=1).shares(scores_C, ranks_C).tolist() == [0.0, 1.0, 0.0]
    assert target._replace(top_k=9).shares(scores_C, ranks_C).tolist() == pytest.approx([1 / 3] * 3)


def test_a_soft_target_is_a_softmax_of_the_scores():
    target = AttentionTarget("soft", top_k=1, temperature=0.5)
    found = target.shares(np.array([0.0, 0.5 * math.log(3)], dtype=np.float32), np.array([1, 0], dtype=np.int32))
    assert found.tolist() == pytest.approx([0.25, 0.75])


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=9),
    st.sampled_from(("top", "soft")),
    st.integers(1, 12),
    st.floats(1e-3, 10),
)
def test_shares_sum_to_one_and_a_better_chunk_never_gets_less(scores, kind, top_k, temperature):
    scores_C = np.array(scores, dtype=np.float32)
    ranks_C = np.argsort(np.argsort(-scores_C, kind="stable"), kind="stable").astype(np.int32)
    shares_C = AttentionTarget(kind, top_k, temperature).shares(scores_C, ranks_C)
    assert shares_C.dtype == np.float32 and (shares_C >= 0).all()
    assert shares_C.sum() == pytest.approx(1.0, abs=1e-5)
    assert (np.diff(shares_C[np.argsort(ranks_C)]) <= 0).all()


def view(context: list[list[int]], question: list[int], answer: list[int], shares: list[float]) -> TokenRow:
    """BOS, chunks, question and answer; the target of each chunk. A chunk without tokens was cut off."""
    ids = np.array([tiny.BOS, *(token for chunk in context for token in chunk), *question, *answer], dtype=np.int32)
    row = collator.row_of_one(ids, np.arange(len(ids), dtype=np.int32), len(ids) - len(answer))
    chunks = [NO_CHUNK, *(number for number, chunk in enumerate(context) for _ in chunk)]
    chunks += [NO_CHUNK] * (len(ids) - len(chunks))
    return replace(row, chunk_L=np.array(chunks, dtype=np.int32), target_EC=np.float32(shares)[None])


CONTEXT = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
ONE = view(CONTEXT, [20, 21, 22], [30, 2], [0.0, 1.0, 0.0])
OTHER = view(CONTEXT, [23, 24], [31, 32, 2], [0.5, 0.25, 0.25])
SHORT = view([[14, 15], [16]], [25], [2], [0.9, 0.1])
UNTAUGHT = collator.row_of_one(np.arange(4, 12, dtype=np.int32), np.arange(8, dtype=np.int32), 6)


def loop(model: Any, row: TokenRow, loss: AttentionLoss, reaches: list[int | None]) -> float:
    """The loss of a row with one example, from the maps of eager attention, a number at a time."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(torch.from_numpy(row.input_ids[None].astype(np.int64)), output_attentions=True).attentions
    model.set_attn_implementation(before)
    (segment,) = row.segments
    asked = 1 + max(place for place, chunk in enumerate(row.chunk_L) if chunk != NO_CHUNK)
    chosen = {
        "last_prompt": [segment.prompt_end - 1],
        "question": range(asked, segment.prompt_end),
        "answer": range(segment.prompt_end - 1, segment.end - 1),
    }[loss.queries]
    layers = range(len(maps)) if loss.layers is None else loss.layers
    found = []
    for layer in layers:
        for token in chosen:
            reach = reaches[layer]
            first = 0 if reach is None else token - reach + 1
            shares = list(row.target_EC[0])
            for chunk in range(len(shares)):
                if not any(row.chunk_L[place] == chunk for place in range(max(first, 0), token + 1)):
                    shares[chunk] = 0.0
            total = sum(shares)
            heads = maps[layer][0, :, token].double().numpy()
            if loss.heads == "mean":
                heads = heads.mean(axis=0, keepdims=True)
            divergences = []
            for head in heads:
                divergence = 0.0
                for chunk, share in enumerate(shares):
                    mass = sum(head[place] for place in range(token + 1) if row.chunk_L[place] == chunk)
                    if share > 0:
                        divergence += share / total * (math.log(share / total) - math.log(mass))
                divergences.append(divergence)
            found.append(min(divergences))
    return sum(found) / len(found)


def measured(model: Any, rows: list[TokenRow], loss: AttentionLoss) -> list[float]:
    inputs = collator.collate(rows, tiny.PAD)
    found = loss.rows(inputs)
    assert found is not None
    with torch.no_grad():
        causal_lm.hidden_states(model, inputs, attention=found)
    return attention.mean_over_layers(found).tolist()


def network(window: int | None = None) -> Any:
    model = tiny.network(dtype=torch.float64)
    model.config.sliding_window = window
    return model


@st.composite
def rows(draw: st.DrawFn) -> TokenRow:
    tokens = st.integers(4, 47)
    context = draw(st.lists(st.lists(tokens, max_size=4), min_size=1, max_size=4).filter(any))
    shares = [draw(st.sampled_from((0.0, 0.0, 1.0, 0.4))) for _ in context]
    total = sum(shares)
    shares = [share / total for share in shares] if total else [1.0, *([0.0] * (len(context) - 1))]
    question, answer = draw(st.lists(tokens, min_size=1, max_size=4)), draw(st.lists(tokens, max_size=3))
    return view(context, question, [*answer, tiny.EOS], shares)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(rows(), min_size=1, max_size=3),
    st.sampled_from((None, (0,), (1,))),
    st.sampled_from(("mean", "best")),
    st.sampled_from(("last_prompt", "question", "answer")),
    st.sampled_from((None, 3, 6)),
)
def test_the_loss_is_that_of_a_plain_loop(made, layers, heads, queries, window):
    """Chunks cut off or outside of a window, whatever stands beside in the batch."""
    model, loss = network(window), AttentionLoss(layers, heads, queries)
    expected = [loop(model, row, loss, [window] * 2) for row in made]
    assert measured(model, made, loss) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_what_cannot_be_seen_is_not_asked_for():
    loss = AttentionLoss(None, "mean", "last_prompt")
    behind = view([[5, 6], [7, 8]], [20, 21], [2], [0.5, 0.5])
    assert measured(network(window=4), [behind], loss) == measured(
        network(window=4), [view([[5, 6], [7, 8]], [20, 21], [2], [0.0, 1.0])], loss
    )
    assert measured(network(window=2), [behind], loss) == [0.0]
    cut = view([[5, 6], [], [7, 8]], [20, 21], [2], [0.0, 0.5, 0.5])
    assert measured(network(), [cut], loss) == measured(
        network(), [view([[5, 6], [], [7, 8]], [20, 21], [2], [0.0, 0.0, 1.0])], loss
    )
    gone = view([[5, 6], []], [20, 21], [2], [0.0, 1.0])
    assert measured(network(), [gone], loss) == [0.0]


@pytest.mark.parametrize(
    ("queries", "single", "shared"),
    [
        ("last_prompt", [12, 11], [12, 16]),
        ("question", [10, 11, 12, 10, 11], [10, 11, 12, 15, 16]),
        ("answer", [12, 13, 11, 12, 13], [12, 13, 16, 17, 18]),
    ],
)
def test_the_chosen_tokens_are_those_named_also_where_questions_share_a_row(queries, single, shared):
    loss = AttentionLoss(None, "mean", queries)
    for made, expected in (([ONE, OTHER], single), ([collator.row_of_many([ONE, OTHER], 10)], shared)):
        _, position_N = loss._chosen(collator.collate(made, tiny.PAD))
        assert position_N.tolist() == expected


@pytest.mark.parametrize("heads", ["mean", "best"])
@pytest.mark.parametrize("queries", ["last_prompt", "question", "answer"])
@pytest.mark.parametrize("window", [None, 6])
def test_questions_in_one_row_are_taught_as_in_rows_of_their_own(heads, queries, window):
    loss = AttentionLoss(None, heads, queries)
    apart = measured(network(window), [ONE, OTHER, SHORT], loss)
    shared = measured(network(window), [collator.row_of_many([ONE, OTHER], 10), SHORT], loss)
    assert shared == pytest.approx(apart, rel=1e-9)
    assert len({round(value, 3) for value in apart}) == 3


def test_an_example_without_a_target_counts_nothing():
    loss = AttentionLoss(None, "mean", "question")
    assert loss.rows(collator.collate([UNTAUGHT], tiny.PAD)) is None
    alone, beside = measured(network(), [ONE], loss), measured(network(), [UNTAUGHT, ONE], loss)
    assert beside == pytest.approx([0.0, *alone], rel=1e-9)
