"""The gradient of one step over a batch that need not fit into memory at once, on one process or several.

The causal-LM losses are sums over examples, so each forward can be differentiated by itself. The contrastive loss
couples all representations of the batch. Two ways give its exact gradient:

retained   every forward is kept until one backward; with activation checkpointing that is one hidden state per layer
cached     representations first, without a graph; then the gradient of the loss by them; then each forward again, with
           that gradient as a linear loss: GradCache (Gao et al., arXiv 2101.06983). Memory of one forward, time of one
           forward more. Random states are replayed, so that dropout gives the second forward what it gave the first.

With several processes each encodes its own examples, and all of them compute the contrastive loss of the whole batch,
in which only their own representations carry a gradient. Their sum is the gradient of the one loss.
"""

# B examples of the batch, b those of this process, D hidden

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.training import losses
from pipeline.training.dataset import Batch, Pack
from pipeline.training.objective import Encoded, Encoder, Objective


class Processes(Protocol):
    """What a process knows of the others."""

    num: int
    rank: int

    def gather(self, own: Tensor) -> Tensor:
        """The tensors of all processes, one behind the other; without gradient, shapes alike."""
        ...

    def apart(self, encoder: Encoder) -> AbstractContextManager[None]:
        """Gradients of what is run within stay with this process until a later backward sends them."""
        ...


class Alone:
    """One process."""

    num, rank = 1, 0

    def gather(self, own: Tensor) -> Tensor:
        return own.detach()

    def apart(self, encoder: Encoder) -> AbstractContextManager[None]:
        return nullcontext()


class Outcome(NamedTuple):
    """Unweighted parts of the loss, equal on all processes."""

    logged: dict[str, Tensor]
    """Scalars by name; "loss" is the weighted sum."""
    clm_full_B: Tensor
    """Nats per example, to tell which one is not finite."""
    clm_masked_B: Tensor | None


def accumulate(encoder: Encoder, batch: Batch, objective: Objective, retained: bool, processes: Processes) -> Outcome:
    """Add the gradient of the step's loss to the encoder's parameters, as the mean over processes that a data-parallel
    wrapper takes: each process differentiates `num` times its share."""
    taught = _taught(encoder, batch, objective, processes)
    if not batch.packs:  # no label is used
        assert taught is not None, "a step computes something"
        logged = {"loss": objective.taught * taught, "distill": taught}
        return Outcome(logged, torch.zeros(0, device=taught.device), None)
    outcome = _accumulate(encoder, batch, objective, retained, processes)
    if taught is None:
        return outcome
    loss = outcome.logged["loss"] + objective.taught * taught
    return outcome._replace(logged=outcome.logged | {"loss": loss, "distill": taught})


def _taught(encoder: Encoder, batch: Batch, objective: Objective, processes: Processes) -> Tensor | None:
    """Forward and backward of the taught views; their divergence per label token of the step.

    The last pack of a step sends the gradients of all.
    """
    if not batch.taught:
        return None
    found: list[Tensor] = []
    for number, pack in enumerate(batch.taught):
        last = not batch.packs and number + 1 == len(batch.taught)  # else one of the other packs is the last
        with nullcontext() if last else processes.apart(encoder):
            encoded: Encoded = encoder(pack.view)
            divergence = encoded.clm_E.sum() * (not pack.idle) / batch.num_labels_taught
            _backward(objective.taught * divergence * processes.num)
        found.append(divergence.detach())
    return processes.gather(torch.stack(found).sum()[None]).sum()


def _accumulate(encoder: Encoder, batch: Batch, objective: Objective, retained: bool, processes: Processes) -> Outcome:
    if objective.contrastive == 0:
        answers = losses.Answers(batch.num_own)
        numbers = range(len(batch.packs))
        found = [_differentiate(encoder, batch, number, objective, None, answers, processes) for number in numbers]
        contrast = None
        if objective.reads_masked:  # weight 0 shows what the contrastive loss would have been
            with torch.no_grad():
                contrast = _contrast(
                    _placed(batch, torch.cat([one.z_ED for one in found])), batch, objective, processes
                )
        return _outcome(batch, objective, found, contrast, processes)
    if retained:
        return _retained(encoder, batch, objective, processes)
    return _cached(encoder, batch, objective, processes)


def _retained(encoder: Encoder, batch: Batch, objective: Objective, processes: Processes) -> Outcome:
    answers = losses.Answers(batch.num_own)
    found: list[_Forward] = []
    for number, pack in enumerate(batch.packs):
        last = number + 1 == len(batch.packs)
        with nullcontext() if last else processes.apart(encoder):
            found.append(_forward(encoder, pack, objective, answers))
    contrast = _contrast(_placed(batch, torch.cat([one.z_ED for one in found])), batch, objective, processes)
    loss = objective.contrastive * contrast.loss
    for one, pack in zip(found, batch.packs, strict=True):
        loss = loss + _share(one, pack, batch, objective)
    _backward(loss * processes.num)
    return _outcome(batch, objective, found, contrast, processes)


def _cached(encoder: Encoder, batch: Batch, objective: Objective, processes: Processes) -> Outcome:
    device = batch.packs[0].view.input_ids_BL.device
    states: list[list[Tensor]] = []
    found: list[Tensor] = []
    with torch.no_grad():
        for pack in batch.packs:
            states.append(_random_state(device))
            found.append(encoder(pack.view, with_labels=False).z_ED)
    z_2bD = _placed(batch, torch.cat(found)).requires_grad_()
    contrast = _contrast(z_2bD, batch, objective, processes)
    (dz_2bD,) = torch.autograd.grad(objective.contrastive * contrast.loss, z_2bD)
    after = _random_state(device)
    answers = losses.Answers(batch.num_own)
    forwards: list[_Forward] = []
    for number, state in enumerate(states):
        _set_random_state(device, state)
        forwards.append(_differentiate(encoder, batch, number, objective, dz_2bD, answers, processes))
    _set_random_state(device, after)
    return _outcome(batch, objective, forwards, contrast, processes)


class _Forward(NamedTuple):
    """What the losses of a pack are made of."""

    clm_E: Tensor
    z_ED: Tensor
    divergence_E: Tensor
    """Of the answer over the full view from that over the masked view, in nats; 0 for masked views."""


def _forward(encoder: Encoder, pack: Pack, objective: Objective, answers: losses.Answers) -> _Forward:
    encoded: Encoded = encoder(pack.view, with_logits=objective.consistency > 0)
    if encoded.logits_NV is None:
        return _Forward(encoded.clm_E, encoded.z_ED, torch.zeros_like(encoded.clm_E))
    return _Forward(encoded.clm_E, encoded.z_ED, answers.divergence(pack, encoded.logits_NV))


def _share(found: _Forward, pack: Pack, batch: Batch, objective: Objective) -> Tensor:
    """What a pack adds to the loss, without the contrast."""
    loss = (found.clm_E * _weights(pack, batch, objective).to(found.clm_E.dtype)).sum()
    if objective.consistency:
        loss = loss + objective.consistency * found.divergence_E.sum() / batch.num_labels_full * (not pack.idle)
    return loss


def _differentiate(
    encoder: Encoder,
    batch: Batch,
    number: int,
    objective: Objective,
    dz_2bD: Tensor | None,
    answers: losses.Answers,
    processes: Processes,
) -> _Forward:
    """Forward and backward of one pack; what it found, detached. The last pack sends the gradients of all."""
    pack = batch.packs[number]
    last = number + 1 == len(batch.packs)
    with nullcontext() if last else processes.apart(encoder):
        found = _forward(encoder, pack, objective, answers)
        loss = _share(found, pack, batch, objective)
        if dz_2bD is not None:
            # At least fp32, as the loss itself: in bf16 the product would lose what the contrast teaches.
            z_ED = found.z_ED.to(torch.promote_types(found.z_ED.dtype, torch.float32))
            loss = loss + (z_ED * dz_2bD[pack.places_E]).sum() * (not pack.idle)
        _backward(loss * processes.num)
    return _Forward(*(part.detach() for part in found))


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it


def _weights(pack: Pack, batch: Batch, objective: Objective) -> Tensor:
    """What a nat of each example's cross-entropy counts in the loss, in fp64."""
    full = objective.full / batch.num_labels_full
    masked = objective.masked / max(batch.num_labels_masked, 1)
    is_full_E = (pack.places_E < batch.num_own).double()
    return (full * is_full_E + masked * (1 - is_full_E)) * (not pack.idle)


def _placed(batch: Batch, rows_E: Tensor) -> Tensor:
    """Rows of all packs in the order of the examples, full views first, then masked views."""
    num_rows = batch.num_own * (1 if all((pack.places_E < batch.num_own).all() for pack in batch.packs) else 2)
    place_E = torch.cat([pack.places_E for pack in batch.packs])
    counted_E = torch.cat([torch.full_like(pack.places_E, not pack.idle, dtype=torch.bool) for pack in batch.packs])
    order = torch.empty(num_rows, dtype=torch.long, device=place_E.device)
    order[place_E[counted_E]] = counted_E.nonzero()[:, 0]
    return rows_E[order]


def _contrast(z_2bD: Tensor, batch: Batch, objective: Objective, processes: Processes) -> losses.Contrast:
    """Of the whole batch; only this process's representations carry a gradient."""
    views = []
    for own_bD in z_2bD.to(torch.promote_types(z_2bD.dtype, torch.float32)).chunk(2):
        all_BD = processes.gather(own_bD)
        first = processes.rank * batch.num_own
        views.append(torch.cat([all_BD[:first], own_bD, all_BD[first + batch.num_own :]]))
    excluded_BB = batch.same_document_BB if objective.same_document == "mask" else None
    return losses.info_nce(views[0], views[1], objective.temperature, excluded_BB)


def _outcome(
    batch: Batch,
    objective: Objective,
    found: Sequence[_Forward],
    contrast: losses.Contrast | None,
    processes: Processes,
) -> Outcome:
    clm_2b = _placed(batch, torch.cat([one.clm_E.detach() for one in found]))
    clm = [processes.gather(part_b) for part_b in clm_2b.reshape(-1, batch.num_own)]
    logged = {"clm_full": clm[0].sum() / batch.num_labels_full}
    loss = objective.full * logged["clm_full"]
    if len(clm) > 1:
        logged["clm_masked"] = clm[1].sum() / batch.num_labels_masked
        loss = loss + objective.masked * logged["clm_masked"]
    if objective.consistency:
        divergence_b = _placed(batch, torch.cat([one.divergence_E.detach() for one in found]))[: batch.num_own]
        logged["consistency"] = processes.gather(divergence_b).sum() / batch.num_labels_full
        loss = loss + objective.consistency * logged["consistency"]
    if contrast is not None:
        loss = loss + objective.contrastive * contrast.loss.detach()
        logged |= {
            "info_nce": contrast.loss.detach(),
            "in_batch_accuracy": contrast.in_batch_accuracy,
            "alignment": contrast.alignment,
            "alignment_others": contrast.alignment_others,
        }
    return Outcome({"loss": loss} | logged, clm[0], clm[1] if len(clm) > 1 else None)


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
