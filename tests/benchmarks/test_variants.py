"""Variants of focused training: their views, and a loss that is the pipeline's where they change nothing."""

import runpy
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.model import causal_lm, collator, lora
from pipeline.model.distributed import Processes
from pipeline.training import grad_cache, losses
from pipeline.training.dataset import MicroBatch, StepBatch
from pipeline.training.objective import Encoder, Objective
from tests.conftest import ROOT
from tests.model import tiny
from tests.tools.ablations import test_tabulate
from tests.training.test_objective import examples

variants = runpy.run_path(str(ROOT / "benchmarks/variants.py"))
VARIANTS, Variant = variants["VARIANTS"], variants["Variant"]
DRAW = np.random.default_rng(0)


def example(num_chunks: int = 12, best: int = 7, shift: int = 0) -> Any:
    """BOS, two tokens of each chunk, a question of three, an answer of two; chunk `best` has rank 0."""
    context = [tiny.BOS, *range(5, 5 + 2 * num_chunks)]
    ids = np.array([*context, 40 + shift, 41 + shift, 42 + shift, 30, tiny.EOS], dtype=np.int32)
    starts = np.arange(1, 1 + 2 * num_chunks, 2, dtype=np.int32)
    ranks = np.roll(np.arange(num_chunks, dtype=np.int32), best)
    return variants["Example"](ids, starts, starts + 2, ranks, len(context), len(context) + 3)


@pytest.mark.parametrize(
    ("name", "done", "num_kept"),
    [
        ("best", 0.3, 4), ("best_alone", 0.0, 1), ("best_and_random", 0.0, 4), ("falling", 0.0, 10),
        ("falling", 0.999, 1), ("growing", 0.0, 1), ("growing", 0.25, 7), ("growing", 0.5, 12), ("growing", 0.9, 12),
        ("whole", 0.0, 12),
    ],
)  # fmt: skip
def test_the_best_chunk_always_stays_and_so_many_with_it(name, done, num_kept):
    kept_C = variants[name](example(), done, DRAW)
    assert kept_C[7] and kept_C.sum() == num_kept


def test_random_chunks_differ_from_step_to_step():
    drawn = {tuple(variants["best_and_random"](example(), 0.0, DRAW)) for _ in range(8)}
    assert len(drawn) > 1


def test_gaps_move_all_that_stands_behind_them_and_nothing_else():
    one, more = example(), VARIANTS["gaps between chunks"]
    plain = variants["full_view"](one, VARIANTS["focused"], 0.0, DRAW)
    found = variants["full_view"](one, more, 0.0, DRAW)
    assert plain.position_ids.tolist() == list(range(len(one.ids)))
    assert found.input_ids.tolist() == plain.input_ids.tolist() == one.ids.tolist()
    steps = np.diff(found.position_ids, prepend=0)
    assert set(np.flatnonzero(steps > 1)) <= set(one.starts_C) and 1 < steps.max() <= 1 + more.gaps
    assert steps[one.question_start :].tolist() == [1] * (len(one.ids) - one.question_start)


def test_negatives_are_the_same_question_elsewhere_or_another_one_here():
    one, other = example(), example(num_chunks=5, best=0, shift=4)
    rows = {name: variants[name](one, other) for name in ("without_best", "other_context", "other_question")}
    words = {name: row.input_ids[: row.segments[0].prompt_end].tolist() for name, row in rows.items()}
    context = one.ids[: one.question_start].tolist()
    assert words["without_best"] == [*context[:15], *context[17:], 40, 41, 42]
    assert rows["without_best"].position_ids.tolist() == [*range(15), *range(17, 30)]  # skip keeps places
    assert words["other_context"] == [*other.ids[: other.question_start].tolist(), 40, 41, 42]
    assert words["other_question"] == [*context, 44, 45, 46]


@pytest.fixture
def network() -> Any:
    return lora.add_adapter(
        tiny.network(), rank=4, alpha=8, dropout=0.0, embedding="lora", norms=True, mask_id=tiny.MASK
    ).train()


def rows(num: int) -> tuple[list[collator.TokenRow], list[collator.TokenRow]]:
    full, masked = [], []
    for ids, starts, ends, prompt_end, kept in examples(num):
        one = variants["Example"](ids, starts, ends, np.where(kept, 0, 1), int(ends[-1]), prompt_end)
        full.append(variants["shown"](one, np.ones(len(starts), dtype=np.bool_), "drop"))
        masked.append(variants["shown"](one, kept, "skip"))
    return full, masked


def test_a_variant_that_changes_nothing_has_the_gradient_of_the_pipeline(network):
    full, masked = rows(4)
    micro_batches = [
        MicroBatch(collator.collate([row], tiny.PAD), torch.tensor([place]))
        for place, row in enumerate([*full, *masked])
    ]
    num_labels = [sum(len(row) - row.segments[0].prompt_end for row in found) for found in (full, masked)]
    batch = StepBatch(micro_batches, 4, *num_labels, None)
    objective = Objective(1.0, 1.0, 0.1, 0.05, "last_prompt")
    grad_cache.accumulate(Encoder(network, "last_prompt"), batch, objective, "graph", Processes())
    wanted = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad()
    found = [variants["read"](network, views, None, 64, tiny.PAD) for views in (full, masked)]
    contrast = variants["contrast"](VARIANTS["focused"], *found, None, 0.05)
    (found[0].clm + found[1].clm + 0.1 * contrast).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_rows_come_back_in_their_order_however_they_are_packed(network):
    full, _ = rows(4)
    full = [full[index] for index in (2, 0, 3, 1)]
    apart = [variants["read"](network, [row], None, 64, tiny.PAD) for row in full]
    together = variants["read"](network, full, None, 10_000, tiny.PAD)
    torch.testing.assert_close(together.z_BD, torch.cat([one.z_BD for one in apart]), rtol=1e-4, atol=1e-5)
    for logits, one in zip(together.logits, apart, strict=True):
        torch.testing.assert_close(logits, one.logits[0], rtol=1e-4, atol=1e-5)


def made(num: int, seed: int) -> Any:
    z_BD = torch.randn(num, 6, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    return variants["Read"](torch.zeros(()), z_BD, [])


def test_the_contrast_is_the_pipelines_and_a_hard_negative_adds_to_it():
    full, masked = made(4, 0), made(4, 1)
    plain = variants["contrast"](Variant(), full, masked, None, 0.05)
    assert plain.item() == pytest.approx(losses.info_nce(full.z_BD, masked.z_BD, 0.05).loss.item())
    negative = made(4, 2)
    harder = variants["contrast"](Variant(), full, masked, negative, 0.05)
    assert harder > plain
    harder.backward()
    assert negative.z_BD.grad.norm() > 0


@pytest.mark.parametrize(("fixed", "moves"), [("", (True, True)), ("masked", (True, False)), ("full", (False, True))])
def test_a_fixed_view_gets_no_gradient(fixed, moves):
    full, masked = made(4, 0), made(4, 1)
    variants["contrast"](Variant(fixed=fixed), full, masked, None, 0.05).backward()
    assert tuple(one.z_BD.grad is not None for one in (full, masked)) == moves


def test_another_layer_is_compared_in_its_own_output(network):
    full, _ = rows(2)
    last, first = (variants["read"](network, full, layer, 64, tiny.PAD) for layer in (None, 0))
    assert not torch.allclose(last.z_BD, first.z_BD)
    assert torch.equal(last.clm, first.clm)
    ids = torch.from_numpy(full[0].input_ids[None].astype(np.int64))
    hidden = causal_lm.unwrap(network).model(ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(first.z_BD[0], hidden[0, full[0].segments[0].prompt_end - 1])


def test_matching_is_zero_for_equal_answers_and_moves_the_full_view_alone():
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    full, masked = (variants["Read"](torch.zeros(()), torch.zeros(1, 2), [logits + 0.0]) for _ in range(2))
    for one in (full, masked):
        one.logits[0].requires_grad_()
    assert variants["matching"](full, masked).item() == pytest.approx(0.0, abs=1e-6)
    other = variants["Read"](torch.zeros(()), torch.zeros(1, 2), [logits.flip(0).requires_grad_()])
    found = variants["matching"](full, other)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits.flip(0)), torch.distributions.Categorical(logits=logits)
    ).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert full.logits[0].grad is not None and other.logits[0].grad is None


def test_a_variant_is_measured_as_a_row_of_the_ablation_grid_against_both_references():
    hits = {"vanilla": [1, 0] * 10, "focused": [1, 1, 1, 0] * 5, "distill": [1] * 20}
    mine, *references = (test_tabulate.row(name, {1: hits[name], 2: hits[name]}) for name in reversed(hits))
    found = variants["measured"](mine, references)
    assert found["vanilla"].to_reference.difference == pytest.approx(0.5)
    assert found["focused"].to_reference.difference == pytest.approx(0.25)
    cells = variants["cells"]("distill", found).split(" | ")
    assert cells[:3] == ["| distill", "1, 2", "100.0"]
    assert cells[3].startswith("+50.0 [") and cells[4].startswith("+25.0 [") and cells[5] == "0.0"
    assert variants["measured"](references[1], references)["vanilla"].to_reference is None
