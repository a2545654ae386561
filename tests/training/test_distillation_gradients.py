"""Questions with a teacher, beside those with labels: their gradient is that of the loss as it is written."""

import numpy as np
import pytest
import torch

from pipeline.model import collator
from pipeline.training.dataset import Batch, Pack
from pipeline.training.objective import VANILLA
from tests.model import tiny
from tests.training.test_grad_cache import assert_same, batch, encoder, rows, run, together
from tests.training.test_objective import FOCUSED

TAUGHT = 0.7


def taught_pack(made, seed=3, num_top=4):
    """The rows with a teacher that says something else than the labels."""
    view = collator.collate(made, tiny.PAD)
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(len(view.labels_N), 48, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    top = teacher.topk(num_top, dim=1)
    view = view._replace(taught_ids_NK=top.indices, taught_log_probs_NK=top.values)
    return Pack(view, torch.arange(len(made)))


def split(pack, made):
    """The same rows, each a forward of its own."""
    first, found = 0, []
    for row in made:
        num = len(row) - row.branches[0].prompt_end
        view = collator.collate([row], tiny.PAD)._replace(
            taught_ids_NK=pack.view.taught_ids_NK[first : first + num],
            taught_log_probs_NK=pack.view.taught_log_probs_NK[first : first + num],
        )
        found.append(Pack(view, torch.arange(1)))
        first += num
    return found


@pytest.mark.parametrize("objective", [VANILLA, FOCUSED])
def test_the_gradient_is_that_of_the_divergence_beside_the_other_losses(objective):
    network, made = encoder(), rows()
    labelled = batch(together(made if objective.reads_masked else made[:4]), 4)
    students = rows(seed=9)[:3]
    pack = taught_pack(students)
    num_labels = len(pack.view.labels_N)
    objective = objective._replace(taught=TAUGHT)
    outcome, found = run(network, labelled._replace(taught=[pack], num_labels_taught=num_labels), objective)

    _, without = run(network, labelled, objective)
    network.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    first = 0
    for row in students:
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        logits = network.network(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=torch.arange(len(row))[None]
        ).logits[0]
        for place in range(row.branches[0].prompt_end, len(row)):
            log_q = logits[place - 1].log_softmax(dim=0)[pack.view.taught_ids_NK[first]]
            log_p = pack.view.taught_log_probs_NK[first]
            rest_p, rest_q = 1 - log_p.exp().sum(), 1 - log_q.exp().sum()
            total = total + (log_p.exp() * (log_p - log_q)).sum() + rest_p * (rest_p.log() - rest_q.log())
            first += 1
    (TAUGHT * total / num_labels).backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], without[name] + parameter.grad, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(outcome.logged["distill"], total / num_labels)


def test_a_forward_each_is_one_forward_of_all():
    network, labelled, students = encoder(), batch(together(rows()[:4]), 4), rows(seed=9)[:3]
    pack = taught_pack(students)
    num_labels = len(pack.view.labels_N)
    objective = VANILLA._replace(taught=TAUGHT)
    whole = run(network, labelled._replace(taught=[pack], num_labels_taught=num_labels), objective)
    apart = run(network, labelled._replace(taught=split(pack, students), num_labels_taught=num_labels), objective)
    assert_same(whole, apart)
    idle = [pack, pack._replace(idle=True)]
    assert_same(whole, run(network, labelled._replace(taught=idle, num_labels_taught=num_labels), objective))


def test_the_loss_is_the_weighted_sum_and_without_a_teacher_there_is_no_divergence():
    network, labelled = encoder(), batch(together(rows()[:4]), 4)
    assert "distill" not in run(network, labelled, VANILLA)[0].logged
    pack = taught_pack(rows(seed=9)[:3])
    made = labelled._replace(taught=[pack], num_labels_taught=len(pack.view.labels_N))
    logged = run(network, made, VANILLA._replace(full=0.5, taught=2.0))[0].logged
    torch.testing.assert_close(logged["loss"], 0.5 * logged["clm_full"] + 2.0 * logged["distill"])


def test_without_labels_the_gradient_is_that_of_the_divergence_alone():
    network, students = encoder(), rows(seed=9)[:3]
    pack = taught_pack(students)
    num_labels = len(pack.view.labels_N)
    objective = VANILLA._replace(full=0.0, taught=TAUGHT)
    nothing = Batch([], 0, 0, 0, None, [pack], num_labels)
    weightless = batch(together(rows()[:4]), 4)._replace(taught=[pack], num_labels_taught=num_labels)
    outcome, found = run(network, nothing, objective)
    _, expected = run(network, weightless, objective)
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(outcome.logged["loss"], TAUGHT * outcome.logged["distill"])
    assert set(outcome.logged) == {"loss", "distill"}
