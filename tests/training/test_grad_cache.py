"""The gradient of a step: equal to a slow obvious reference, whichever way it is computed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.model import attention_mask, causal_lm, collator, lora
from pipeline.model.distributed import Processes
from pipeline.training import grad_cache
from pipeline.training.attention import AttentionLoss
from pipeline.training.dataset import MicroBatch, StepBatch
from pipeline.training.objective import VANILLA, Encoder
from pipeline.views import masking
from tests.model import tiny
from tests.training.test_objective import FOCUSED, examples

WHERE_TO_LOOK = {"attention": 0.6, "attention_loss": AttentionLoss(None, "mean", "last_prompt")}
LORA = {"rank": 4, "alpha": 8, "embedding": "lora", "norms": True, "mask_id": tiny.MASK}


def encoder(objective=FOCUSED, dtype=torch.float64, dropout=0.0, seed=0):
    """A toy model whose adapter is not zero, in training mode."""
    adapted = lora.add_adapter(tiny.network(seed, dtype=dtype), dropout=dropout, **LORA)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return Encoder(adapted, objective).train()


def rows(mode="token", num=4, seed=0):
    """Full views, then masked views."""
    full = [(ids, np.arange(len(ids), dtype=np.int32), end) for ids, _, _, end, _ in examples(num, seed)]
    masked = [masking.masked_view(*example, mode, tiny.MASK) for example in examples(num, seed)]
    return [collator.row_of_one(*view) for view in full + masked]


def batch(packed, num_own, same=None, labels=None):
    """From lists of (row, places of its examples), one list for each forward."""
    micro_batches = [
        MicroBatch(
            collator.collate([row for row, _ in micro_batch], tiny.PAD),
            torch.tensor([place for _, places in micro_batch for place in places]),
        )
        for micro_batch in packed
    ]
    counts = [0, 0]
    for row, places in itertools.chain(*packed):
        for segment, place in zip(row.segments, places, strict=True):
            counts[place >= num_own] += segment.end - segment.prompt_end
    return StepBatch(micro_batches, num_own, *(labels or counts), same, num_full_views=num_own)


def apart(rows):
    """Each row a forward of its own."""
    return [[(row, [place])] for place, row in enumerate(rows)]


def masked_first(rows):
    """The masked views in a forward of their own, before those of the full views."""
    half = len(rows) // 2
    places = list(enumerate(rows))
    return [[(row, [place]) for place, row in found] for found in (places[half:], places[:1], places[1:half])]


def together(rows):
    return [[(row, [place]) for place, row in enumerate(rows)]]


def run(network, made, objective=FOCUSED, negatives="graph"):
    network.zero_grad()
    torch.manual_seed(5)
    outcome = grad_cache.accumulate(network, made, objective, negatives, Processes())
    return outcome, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_same(one, other, rtol=1e-9, atol=1e-12):
    for name, value in one[0].logged.items():
        torch.testing.assert_close(value, other[0].logged[name], rtol=rtol, atol=atol)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        torch.testing.assert_close(grad, other[1][name], rtol=rtol, atol=atol, msg=lambda text, name=name: name + text)


def reference(network, rows, objective):
    """Every view by itself through the whole language model, all logits, the losses as the paper writes them."""
    network.zero_grad()
    nats, counts, z, says = ([[], []] for _ in range(4))
    half = len(rows) // 2
    for place, row in enumerate(rows):
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        found = network.network(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.from_numpy(row.position_ids.astype(np.int64))[None],
            output_hidden_states=True,
        )
        end, side = row.segments[0].prompt_end, int(place >= half)
        nats[side].append(functional.cross_entropy(found.logits[0, end - 1 : -1], ids[0, end:], reduction="sum"))
        counts[side].append(len(row) - end)
        says[side].append(torch.distributions.Categorical(logits=found.logits[0, end - 1 : -1]))
        z[side].append(functional.normalize(found.hidden_states[-1][0, end - 1], dim=0))
    loss = objective.full * sum(nats[0]) / sum(counts[0]) + objective.masked * sum(nats[1]) / sum(counts[1])
    contrast = 0.0
    for i in range(half):
        for one, other in ((z[0], z[1]), (z[1], z[0])):
            similar = torch.stack([one[i] @ other[j] / objective.temperature for j in range(half)])
            contrast = contrast - torch.log_softmax(similar, dim=0)[i] / (2 * half)
    divergence = 0.0
    for full, masked in zip(*says, strict=True):
        fixed = torch.distributions.Categorical(logits=masked.logits.detach())
        divergence = divergence + torch.distributions.kl_divergence(fixed, full).sum() / sum(counts[0])
    (loss + objective.contrastive * contrast + objective.consistency * divergence).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("negatives", ["graph", "cached"])
@pytest.mark.parametrize("split", [apart, together])
@pytest.mark.parametrize("mode", ["token", "skip"])
def test_the_gradient_is_that_of_the_loss_as_it_is_written(mode, split, negatives):
    network, made = encoder(), rows(mode)
    objective = FOCUSED._replace(full=0.7, masked=1.3, contrastive=0.4)
    _, found = run(network, batch(split(made), 4), objective, negatives)
    expected = reference(network, made, objective)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("contrastive", "negatives"), [(0.4, "graph"), (0.4, "cached"), (0.0, "graph")])
@pytest.mark.parametrize("mode", ["token", "skip"])
def test_the_answer_over_the_full_view_is_drawn_to_that_over_the_masked_one(mode, contrastive, negatives):
    """The masked view itself gets no gradient of it: it would else learn to be as distracted."""
    network, made = encoder(), rows(mode)
    objective = FOCUSED._replace(full=0.7, masked=1.3, contrastive=contrastive, consistency=0.6)
    outcome, found = run(network, batch(masked_first(made), 4), objective, negatives)
    for name, grad in reference(network, made, objective).items():
        torch.testing.assert_close(found[name], grad, rtol=1e-8, atol=1e-11)
    logged = outcome.logged
    parts = 0.7 * logged["clm_full"] + 1.3 * logged["clm_masked"] + 0.6 * logged["consistency"]
    torch.testing.assert_close(logged["loss"], parts + contrastive * logged["info_nce"])
    assert logged["consistency"] > 0.01


def test_questions_of_one_row_are_drawn_each_to_its_own_masked_view():
    network = encoder()
    single, one_row = shared()
    masked = [[(row, [3 + place]) for place, row in enumerate(single)]]  # of the same labels, as masked views have
    objective = FOCUSED._replace(consistency=1.0)
    separate = run(network, batch([*masked, *apart(single)], 3), objective)
    one = run(network, batch([*masked, [(one_row, [0, 1, 2])]], 3), objective)
    assert_same(separate, one, rtol=1e-6, atol=1e-6)
    assert one[0].logged["consistency"] == pytest.approx(0.0, abs=1e-9)  # equal views say the same


def test_four_forwards_of_one_are_one_forward_of_four():
    """What accumulation must not change; the contrastive loss is not scaled by it."""
    network, made = encoder(), rows()
    whole = run(network, batch(together(made), 4))
    for negatives in ("graph", "cached"):
        assert_same(run(network, batch(apart(made), 4), negatives=negatives), whole)


def test_cached_negatives_replay_dropout():
    """The same random numbers in both forwards: the gradient of the graph, and another seed gives another one."""
    network, made = encoder(dropout=0.3), batch(apart(rows()), 4)
    graph, cached = run(network, made), run(network, made, negatives="cached")
    assert_same(graph, cached)
    without = run(encoder(dropout=0.0), made)
    assert (without[0].logged["loss"] - graph[0].logged["loss"]).abs() > 1e-3


def test_weight_zero_with_the_full_view_alone_is_bitwise_vanilla():
    network, made = encoder(dtype=torch.float32), rows()
    full_alone = batch(together(made[:4]), 4)
    ours = run(network, full_alone, FOCUSED._replace(masked=0.0, contrastive=0.0))[1]
    vanilla = run(network, full_alone, VANILLA)[1]
    for name, grad in ours.items():
        assert torch.equal(grad, vanilla[name]), name


def test_vanilla_is_the_plain_language_model_loss_of_transformers():
    network, made = encoder(dtype=torch.float32), rows()[:4]
    outcome, _ = run(network, batch(together(made), 4), VANILLA)
    view = collator.collate(made, tiny.PAD)
    labels = torch.full_like(view.input_ids_BL, -100)
    for row, made_row in enumerate(made):
        end = made_row.segments[0].prompt_end
        labels[row, end : len(made_row)] = view.input_ids_BL[row, end : len(made_row)]
    expected = network.network(input_ids=view.input_ids_BL, attention_mask=view.mask_BL, labels=labels).loss
    torch.testing.assert_close(outcome.logged["clm_full"], expected)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    logged = run(encoder(), batch(together(rows()), 4), FOCUSED._replace(full=0.5, masked=2.0, contrastive=0.3))[
        0
    ].logged
    expected = 0.5 * logged["clm_full"] + 2.0 * logged["clm_masked"] + 0.3 * logged["info_nce"]
    torch.testing.assert_close(logged["loss"], expected)


def test_weight_zero_still_tells_what_the_contrastive_loss_is():
    network, made = encoder(), batch(apart(rows()), 4)
    without, with_it = (run(network, made, FOCUSED._replace(contrastive=weight))[0].logged for weight in (0.0, 0.1))
    torch.testing.assert_close(without["info_nce"], with_it["info_nce"])
    torch.testing.assert_close(without["loss"], with_it["loss"] - 0.1 * with_it["info_nce"])


def test_skip_is_exactly_masks_that_are_not_attended():
    """Values and gradients in fp64; skip never reads the <mask> row, so that row alone may differ."""
    network = encoder()
    skip, token = rows("skip"), rows("token")
    unattended = batch([*together(token[:4]), [(row, [4 + i]) for i, row in enumerate(token[4:])]], 4)
    view = unattended.micro_batches[1].inputs
    unattended.micro_batches[1] = unattended.micro_batches[1]._replace(
        inputs=view._replace(mask_BL=view.mask_BL * (view.input_ids_BL != tiny.MASK))
    )
    one, other = run(network, batch(together(skip), 4)), run(network, unattended)
    mask_rows = [name for name in one[1] if "embedding_A" in name]
    for name in mask_rows:  # LoRA on the embedding: A has a column for each token
        one[1][name][:, tiny.MASK], other[1][name][:, tiny.MASK] = 0, 0
    assert mask_rows
    assert_same(one, other, rtol=1e-8, atol=1e-11)


def shared(num=3, window=None, seed=1):
    """`num` questions over one context of three chunks: a row each, and all in one row."""
    rng = np.random.default_rng(seed)
    context = rng.integers(4, 48, size=17).astype(np.int32)
    chunk_L = np.repeat([collator.NO_CHUNK, 0, 1, 2], [1, 5, 5, 6]).astype(np.int32)
    single = []
    for number in range(num):
        question, answer = (rng.integers(4, 48, size=rng.integers(2, 6)).astype(np.int32) for _ in range(2))
        ids = np.concatenate([context, question, answer, np.array([tiny.EOS], dtype=np.int32)])
        row = collator.row_of_one(ids, np.arange(len(ids), dtype=np.int32), len(context) + len(question))
        of_row = np.pad(chunk_L, (0, len(ids) - len(context)), constant_values=collator.NO_CHUNK)
        single.append(replace(row, chunk_L=of_row, target_EC=np.eye(3, dtype=np.float32)[[number % 3]]))
    return single, collator.row_of_many(single, len(context))


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("representation", ["last_prompt", "mean", "eos"])
def test_questions_in_one_row_are_the_same_as_a_row_each(representation, implementation, window):
    """Losses, representations and gradients, also where a window has passed the context's beginning."""
    network = encoder(FOCUSED._replace(representation=representation))
    whole = causal_lm.unwrap(network.network)
    whole.config.sliding_window = window
    whole.set_attn_implementation(implementation)
    single, one_row = shared()
    masked = rows("token", 3)[3:]
    masked_batches = [[(row, [3 + place]) for place, row in enumerate(masked)]]
    separate = run(network, batch(apart(single) + masked_batches, 3))
    for negatives in ("graph", "cached"):
        # transformers takes RMS norms in fp32 whatever the model's type: the last bit there is not the same everywhere.
        one = run(network, batch([[(one_row, [0, 1, 2])], *masked_batches], 3), negatives=negatives)
        assert_same(separate, one, rtol=1e-6, atol=1e-6)


def test_a_window_changes_what_a_row_of_many_sees():
    """The test above would not notice a window that nobody applies."""
    network = encoder()
    _, one_row = shared()
    found = []
    for window in (None, 6):
        causal_lm.unwrap(network.network).config.sliding_window = window
        found.append(run(network, batch([[(one_row, [0, 1, 2])]], 3), VANILLA)[0].logged["loss"])
    assert abs(found[0] - found[1]) > 1e-3


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch, by itself
def test_flex_attention_sees_what_sdpa_sees():
    """Forward alone: flex attention has no backward on the CPU."""
    _, one_row = shared()
    network = encoder(FOCUSED._replace(**WHERE_TO_LOOK), dtype=torch.float32)
    whole = causal_lm.unwrap(network.network)
    found = []
    view = collator.collate([one_row], tiny.PAD)
    for window in (None, 6):
        dense = attention_mask.tree_mask(view, window)[0, 0]
        blocks = attention_mask.block_mask(view, window)
        places = torch.arange(len(one_row))
        seen = blocks.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places[None, :])
        assert torch.equal(seen, dense)
    for implementation in ("sdpa", "flex_attention"):
        whole.set_attn_implementation(implementation)
        with torch.no_grad():
            found.append(network(view))
            assert (found[-1].attention_E > 0.1).all()
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_pairs_of_one_document_neither_attract_nor_repel():
    """With every other example excluded, the contrastive loss is 0; kept, it is not."""
    network, made = encoder(), rows()
    same = ~torch.eye(4, dtype=torch.bool)
    masked = run(network, batch(together(made), 4, same))[0].logged["info_nce"]
    kept = run(network, batch(together(made), 4, same), FOCUSED._replace(same_document="keep"))[0].logged["info_nce"]
    nothing = run(network, batch(together(made), 4))[0].logged["info_nce"]
    assert masked.item() == pytest.approx(0.0, abs=1e-12)
    assert kept.item() == nothing.item() > 0.1


def test_an_idle_forward_counts_nothing():
    network, made = encoder(), batch(apart(rows()), 4)
    idle = made._replace(micro_batches=[*made.micro_batches, made.micro_batches[-1]._replace(idle=True)])
    for negatives in ("graph", "cached"):
        assert_same(run(network, made, negatives=negatives), run(network, idle, negatives=negatives))


@pytest.mark.parametrize("negatives", ["graph", "cached"])
def test_activation_checkpointing_changes_no_gradient(negatives):
    network, made = encoder(dropout=0.2), batch(apart(rows()), 4)
    plain = run(network, made, negatives=negatives)
    causal_lm.unwrap(network.network).activation_checkpointing_enable({"use_reentrant": False})
    assert_same(plain, run(network, made, negatives=negatives))


def test_over_a_bf16_base_the_trainable_parameters_stay_fp32():
    adapted = lora.add_adapter(tiny.network(dtype=torch.bfloat16), dropout=0.0, **LORA)
    network = Encoder(adapted, FOCUSED).train()
    outcome, found = run(network, batch(together(rows()), 4))
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    assert outcome.logged["loss"].dtype == torch.float32
    exact = run(
        Encoder(lora.add_adapter(tiny.network(), dropout=0.0, **LORA), FOCUSED),
        batch(together(rows()), 4),
    )
    assert outcome.logged["loss"].item() == pytest.approx(exact[0].logged["loss"].item(), rel=0.02)


WEIGHT = 0.7


def distill_batch(made, seed=3, num_top=4):
    """The rows with a teacher that says something else than the labels."""
    view = collator.collate(made, tiny.PAD)
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(len(view.labels_N), 48, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    top = teacher.topk(num_top, dim=1)
    view = view._replace(teacher_ids_NK=top.indices, teacher_log_probs_NK=top.values)
    return MicroBatch(view, torch.arange(len(made)))


def split(micro_batch, made):
    """The same rows, each a forward of its own."""
    first, found = 0, []
    for row in made:
        num = len(row) - row.segments[0].prompt_end
        view = collator.collate([row], tiny.PAD)._replace(
            teacher_ids_NK=micro_batch.inputs.teacher_ids_NK[first : first + num],
            teacher_log_probs_NK=micro_batch.inputs.teacher_log_probs_NK[first : first + num],
        )
        found.append(MicroBatch(view, torch.arange(1)))
        first += num
    return found


@pytest.mark.parametrize("objective", [VANILLA, FOCUSED])
def test_the_gradient_is_that_of_the_divergence_beside_the_other_losses(objective):
    network, made = encoder(), rows()
    labelled = batch(together(made if objective.reads_masked else made[:4]), 4)
    students = rows(seed=9)[:3]
    micro_batch = distill_batch(students)
    num_labels = len(micro_batch.inputs.labels_N)
    objective = objective._replace(distill=WEIGHT)
    outcome, found = run(network, labelled._replace(distill=[micro_batch], num_labels_distill=num_labels), objective)

    _, without = run(network, labelled, objective)
    network.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    first = 0
    for row in students:
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        logits = network.network(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=torch.arange(len(row))[None]
        ).logits[0]
        for place in range(row.segments[0].prompt_end, len(row)):
            log_q = logits[place - 1].log_softmax(dim=0)[micro_batch.inputs.teacher_ids_NK[first]]
            log_p = micro_batch.inputs.teacher_log_probs_NK[first]
            rest_p, rest_q = 1 - log_p.exp().sum(), 1 - log_q.exp().sum()
            total = total + (log_p.exp() * (log_p - log_q)).sum() + rest_p * (rest_p.log() - rest_q.log())
            first += 1
    (WEIGHT * total / num_labels).backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], without[name] + parameter.grad, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(outcome.logged["distill"], total / num_labels)


def test_a_forward_each_is_one_forward_of_all():
    network, labelled, students = encoder(), batch(together(rows()[:4]), 4), rows(seed=9)[:3]
    micro_batch = distill_batch(students)
    num_labels = len(micro_batch.inputs.labels_N)
    objective = VANILLA._replace(distill=WEIGHT)
    whole = run(network, labelled._replace(distill=[micro_batch], num_labels_distill=num_labels), objective)
    each = split(micro_batch, students)
    apart = run(network, labelled._replace(distill=each, num_labels_distill=num_labels), objective)
    assert_same(whole, apart)
    idle = [micro_batch, micro_batch._replace(idle=True)]
    assert_same(whole, run(network, labelled._replace(distill=idle, num_labels_distill=num_labels), objective))


def test_taught_questions_in_one_row_are_the_same_as_a_row_each():
    network, labelled, (single, _) = encoder(), batch(together(rows()[:4]), 4), shared()
    each = split(distill_batch(single), single)
    taught = [
        replace(row, **{name: getattr(one.inputs, name).numpy() for name in ("teacher_ids_NK", "teacher_log_probs_NK")})
        for row, one in zip(single, each, strict=True)
    ]
    one_row = MicroBatch(collator.collate([collator.row_of_many(taught, 17)], tiny.PAD), torch.arange(3))
    num_labels = len(one_row.inputs.labels_N)
    objective = VANILLA._replace(distill=WEIGHT)
    separate = run(network, labelled._replace(distill=each, num_labels_distill=num_labels), objective)
    together_ = run(network, labelled._replace(distill=[one_row], num_labels_distill=num_labels), objective)
    assert_same(separate, together_, rtol=1e-6, atol=1e-6)


def test_the_loss_is_the_weighted_sum_and_without_a_teacher_there_is_no_divergence():
    network, labelled = encoder(), batch(together(rows()[:4]), 4)
    assert "distill" not in run(network, labelled, VANILLA)[0].logged
    micro_batch = distill_batch(rows(seed=9)[:3])
    made = labelled._replace(distill=[micro_batch], num_labels_distill=len(micro_batch.inputs.labels_N))
    logged = run(network, made, VANILLA._replace(full=0.5, distill=2.0))[0].logged
    torch.testing.assert_close(logged["loss"], 0.5 * logged["clm_full"] + 2.0 * logged["distill"])


def test_without_labels_the_gradient_is_that_of_the_divergence_alone():
    network, students = encoder(), rows(seed=9)[:3]
    micro_batch = distill_batch(students)
    num_labels = len(micro_batch.inputs.labels_N)
    objective = VANILLA._replace(full=0.0, distill=WEIGHT)
    nothing = StepBatch([], 0, 0, 0, None, [micro_batch], num_labels)
    weightless = batch(together(rows()[:4]), 4)._replace(distill=[micro_batch], num_labels_distill=num_labels)
    outcome, found = run(network, nothing, objective)
    _, expected = run(network, weightless, objective)
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(outcome.logged["loss"], WEIGHT * outcome.logged["distill"])
    assert set(outcome.logged) == {"loss", "distill"}


def taught(made, seed=0):
    """The same full views, with their chunks, and all attention asked for one of them."""
    found = []
    for row, (_, starts, ends, _, kept) in zip(made, examples(len(made), seed), strict=True):
        chunk_L = np.full(len(row), collator.NO_CHUNK, dtype=np.int32)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            chunk_L[start:end] = number
        found.append(replace(row, chunk_L=chunk_L, target_EC=kept[None].astype(np.float32)))
    return found


def attention_as_written(network, made):
    """- log of the mass on the target's chunk at the last prompt token, mean over layers, summed over the views."""
    whole = causal_lm.unwrap(network.network)
    whole.set_attn_implementation("eager")
    total = 0.0
    for row in made:
        maps = whole(torch.from_numpy(row.input_ids.astype(np.int64))[None], output_attentions=True).attentions
        wanted = torch.from_numpy(row.chunk_L == int(row.target_EC[0].argmax()))
        for map_1HLL in maps:
            mass = map_1HLL[0, :, row.segments[0].prompt_end - 1].mean(dim=0)[wanted].sum()
            total = total - mass.log() / len(maps)
    whole.set_attn_implementation("sdpa")
    return total


def assert_adds(found, without, network, loss):
    """The gradient is the one without the attention term plus that of `loss`."""
    network.zero_grad()
    loss.backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            zero = torch.zeros_like(parameter)
            expected = without.get(name, zero) + (zero if parameter.grad is None else parameter.grad)
            # transformers takes the softmax of eager attention in fp32, whatever the model's type
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("negatives", ["graph", "cached"])
@pytest.mark.parametrize("split", [apart, together])
@pytest.mark.parametrize("objective", [VANILLA, FOCUSED, FOCUSED._replace(consistency=0.5)])
def test_attention_adds_the_gradient_of_its_loss_as_it_is_written(objective, split, negatives):
    looking = objective._replace(**WHERE_TO_LOOK)
    network, made = encoder(looking), rows()
    made = [*taught(made[:4]), *(made[4:] if objective.reads_masked else [])]
    labelled = batch(masked_first(made) if objective.consistency else split(made), 4)
    outcome, found = run(network, labelled, looking, negatives)
    plain, without = run(encoder(objective), labelled, objective, negatives)
    loss = attention_as_written(network, made[:4]) / 4
    torch.testing.assert_close(outcome.logged["attention"], loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outcome.logged["loss"], plain.logged["loss"] + 0.6 * outcome.logged["attention"])
    assert "attention" not in plain.logged
    assert_adds(found, without, network, 0.6 * loss)


@pytest.mark.parametrize("queries", ["last_prompt", "question", "answer"])
def test_how_forwards_are_divided_changes_no_attention(queries):
    """Micro-batches, kept or computed again, with dropout and idle ones."""
    objective = FOCUSED._replace(attention=0.6, attention_loss=AttentionLoss((1,), "best", queries))
    network, made = encoder(objective), rows()
    made = [*taught(made[:4]), *made[4:]]
    whole = run(network, batch(together(made), 4), objective)
    assert whole[0].logged["attention"] > 0.1
    each = batch(apart(made), 4)
    idle = each._replace(micro_batches=[*each.micro_batches, each.micro_batches[0]._replace(idle=True)])
    for negatives in ("graph", "cached"):
        assert_same(run(network, each, objective, negatives), whole)
        assert_same(run(network, idle, objective, negatives), whole)
    dropping = encoder(objective, dropout=0.3)
    assert_same(run(dropping, each, objective), run(dropping, each, objective, "cached"))


@pytest.mark.parametrize("window", [None, 6])
def test_attention_of_questions_in_one_row_is_that_of_a_row_each(window):
    objective = FOCUSED._replace(attention=0.6, attention_loss=AttentionLoss(None, "mean", "answer"))
    network = encoder(objective)
    causal_lm.unwrap(network.network).config.sliding_window = window
    single, one_row = shared()
    masked = [[(row, [3 + place]) for place, row in enumerate(rows(num=3)[3:])]]
    separate = run(network, batch(apart(single) + masked, 3), objective)
    assert separate[0].logged["attention"] > 0.1
    for negatives in ("graph", "cached"):
        one = run(network, batch([[(one_row, [0, 1, 2])], *masked], 3), objective, negatives)
        assert_same(separate, one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("labelled", [True, False], ids=["with labels", "without labels"])
def test_attention_is_the_mean_over_all_full_views_of_the_step(labelled):
    objective = VANILLA._replace(full=float(labelled), distill=WEIGHT)
    looking = objective._replace(**WHERE_TO_LOOK)
    network, made, students = encoder(looking), taught(rows()[:4]), taught(rows(num=3, seed=9)[:3], seed=9)
    micro_batch = distill_batch(students)
    num_labels, own = len(micro_batch.inputs.labels_N), made if labelled else []
    beside = batch(together(made), 4) if labelled else StepBatch([], 0, 0, 0, None)
    each = [*split(micro_batch, students), micro_batch._replace(idle=True)]
    found = []
    for distill in ([micro_batch], each):
        step = beside._replace(distill=distill, num_labels_distill=num_labels, num_full_views=len(own) + 3)
        found.append(run(network, step, looking))
    assert_same(*found)
    plain, without = run(encoder(objective), step, objective)
    loss = attention_as_written(network, [*own, *students]) / (len(own) + 3)
    logged = found[0][0].logged
    torch.testing.assert_close(logged["attention"], loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logged["loss"], plain.logged["loss"] + 0.6 * logged["attention"])
    assert set(logged) == {"loss", "distill", "attention"} | ({"clm_full"} if labelled else set())
    assert_adds(found[0][1], without, network, 0.6 * loss)
