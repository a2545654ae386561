"""The gradient of one step over a batch that need not fit into memory at once, on one process or several.

The causal-LM losses are sums over examples, so each micro-batch can be differentiated by itself. The contrastive loss
couples all representations of the batch. Two ways (`train.negatives`) give its exact gradient:

graph    every forward is kept until one backward; with activation checkpointing that is one hidden state per layer
cached   representations first, without a graph; then the gradient of the loss with respect to them; then each forward
         again, with that gradient as a linear loss: GradCache (Gao et al., arXiv 2101.06983). Memory of one forward,
         time of one forward more. Random states are replayed, so that dropout is the same in both forwards.

With several processes each encodes its own examples. All of them compute the contrastive loss of the whole batch, in
which only their own representations carry a gradient; the sum over processes is the gradient of the one loss.
"""

# B examples of the batch, b those of this process, E those of a micro-batch, D hidden

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.model.distributed import Processes
from pipeline.training import losses
from pipeline.training.dataset import MicroBatch, StepBatch
from pipeline.training.objective import Encoded, Encoder, Objective


class StepLosses(NamedTuple):
    """The losses of a step, without their weights, equal on all processes."""

    logged: dict[str, Tensor]
    """Scalars by the name of their curve; "loss" is the weighted sum."""
    clm_full_B: Tensor
    """Nats per example, which identify the examples whose loss is not finite."""
    clm_masked_B: Tensor | None


def accumulate(
    encoder: Encoder,
    batch: StepBatch,
    objective: Objective,
    negatives: Literal["graph", "cached"],
    processes: Processes,
) -> StepLosses:
    """Add the gradient of the step's loss to the encoder's parameters.

    Data-parallel wrappers average gradients over processes, so each process differentiates `world_size` times its
    share of the loss.
    """
    step = _Step(encoder, batch, objective, processes)
    distill = step.distill() if batch.distill else {}
    if batch.micro_batches:
        found = step.labelled(negatives)
    else:
        assert distill, "a step without any loss"
        device = distill["distill"].device
        found = StepLosses({"loss": torch.zeros((), device=device)}, torch.zeros(0, device=device), None)
    logged = found.logged | distill
    loss = found.logged["loss"]
    if distill:
        loss = loss + objective.distill * distill["distill"]
    if objective.attention:
        parts = [one["attention"] for one in (found.logged, distill) if "attention" in one]
        logged["attention"] = torch.stack(parts).sum()
        loss = loss + objective.attention * logged["attention"]
    return found._replace(logged=logged | {"loss": loss})


class _ForwardOutput(NamedTuple):
    """Loss, representation, attention and consistency term of each example of a micro-batch."""

    clm_E: Tensor
    z_ED: Tensor
    attention_E: Tensor
    divergence_E: Tensor
    """Consistency loss of each example in nats; 0 for masked views."""


class _Step:
    """One step on this process. The last backward of the step sends the gradients to the other processes."""

    def __init__(self, encoder: Encoder, batch: StepBatch, objective: Objective, processes: Processes) -> None:
        self._encoder, self._batch, self._objective, self._processes = encoder, batch, objective, processes
        self._consistency = losses.ConsistencyLoss(batch.num_own)

    def distill(self) -> dict[str, Tensor]:
        """Run forward and backward of the distillation examples; return their divergence per label token.

        With it their share of the step's divergence of attention, where that is taught.
        """
        found: list[Tensor] = []
        for number, micro_batch in enumerate(self._batch.distill):
            last = number + 1 == len(self._batch.distill) and not self._batch.micro_batches
            with self._sync_after(last):
                encoded: Encoded = self._encoder(micro_batch.inputs)
                counted = not micro_batch.idle
                divergence = encoded.loss_E.sum() * counted / self._batch.num_labels_distill
                attention = encoded.attention_E.sum() * counted / self._batch.num_full_views
                self._backward(self._objective.distill * divergence + self._objective.attention * attention)
            found.append(torch.stack([divergence.detach(), attention.detach()]))
        divergence, attention = self._processes.gather(torch.stack(found).sum(dim=0)[None]).sum(dim=0)
        return {"distill": divergence} | ({"attention": attention} if self._objective.attention else {})

    def labelled(self, negatives: Literal["graph", "cached"]) -> StepLosses:
        """Run forward and backward of the examples with labels."""
        if self._objective.contrastive == 0:
            found = [self._differentiate(number, None) for number in range(len(self._batch.micro_batches))]
            contrast = None
            if self._objective.reads_masked:  # a weight of 0 still logs the contrastive loss
                with torch.no_grad():
                    contrast = self._contrast(self._placed([one.z_ED for one in found]))
            return self._losses(found, contrast)
        return self._by_graph() if negatives == "graph" else self._by_cache()

    def _by_graph(self) -> StepLosses:
        found: list[_ForwardOutput] = []
        for number, micro_batch in enumerate(self._batch.micro_batches):
            with self._sync_after(number + 1 == len(self._batch.micro_batches)):
                found.append(self._forward(micro_batch))
        contrast = self._contrast(self._placed([one.z_ED for one in found]))
        loss = self._objective.contrastive * contrast.loss
        for one, micro_batch in zip(found, self._batch.micro_batches, strict=True):
            loss = loss + self._own_loss(one, micro_batch)
        self._backward(loss)
        return self._losses(found, contrast)

    def _by_cache(self) -> StepLosses:
        device = self._batch.micro_batches[0].inputs.input_ids_BL.device
        states: list[list[Tensor]] = []
        found: list[Tensor] = []
        with torch.no_grad():
            for micro_batch in self._batch.micro_batches:
                states.append(_random_state(device))
                found.append(self._encoder(micro_batch.inputs, with_labels=False).z_ED)
        z_2bD = self._placed(found).requires_grad_()
        contrast = self._contrast(z_2bD)
        (dz_2bD,) = torch.autograd.grad(self._objective.contrastive * contrast.loss, z_2bD)
        after = _random_state(device)
        forwards: list[_ForwardOutput] = []
        for number, state in enumerate(states):
            _set_random_state(device, state)
            forwards.append(self._differentiate(number, dz_2bD))
        _set_random_state(device, after)
        return self._losses(forwards, contrast)

    def _forward(self, micro_batch: MicroBatch) -> _ForwardOutput:
        encoded: Encoded = self._encoder(micro_batch.inputs, with_logits=self._objective.consistency > 0)
        if encoded.logits_NV is None:
            return _ForwardOutput(*encoded[:3], torch.zeros_like(encoded.loss_E))
        return _ForwardOutput(*encoded[:3], self._consistency.divergence(micro_batch, encoded.logits_NV))

    def _differentiate(self, number: int, dz_2bD: Tensor | None) -> _ForwardOutput:
        """Run forward and backward of one micro-batch; return its losses, detached."""
        micro_batch = self._batch.micro_batches[number]
        with self._sync_after(number + 1 == len(self._batch.micro_batches)):
            found = self._forward(micro_batch)
            loss = self._own_loss(found, micro_batch)
            if dz_2bD is not None:
                # At least fp32, like the loss itself: bf16 would round the contrastive gradient away.
                z_ED = losses.at_least_fp32(found.z_ED)
                loss = loss + (z_ED * dz_2bD[micro_batch.places_E]).sum() * (not micro_batch.idle)
            self._backward(loss)
        return _ForwardOutput(*(part.detach() for part in found))

    def _sync_after(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self._processes.no_sync(self._encoder)

    def _backward(self, loss: Tensor) -> None:
        (loss * self._processes.world_size).backward()  # type: ignore[no-untyped-call]  # torch ships no type for it

    def _own_loss(self, found: _ForwardOutput, micro_batch: MicroBatch) -> Tensor:
        """Return the micro-batch's weighted losses, without the contrastive loss."""
        objective, batch = self._objective, self._batch
        weight_full = objective.full / batch.num_labels_full
        weight_masked = objective.masked / max(batch.num_labels_masked, 1)
        is_full_E = (micro_batch.places_E < batch.num_own).double()
        weight_E = (weight_full * is_full_E + weight_masked * (1 - is_full_E)) * (not micro_batch.idle)
        loss = (found.clm_E * weight_E.to(found.clm_E.dtype)).sum()
        counted = not micro_batch.idle
        if objective.consistency:
            loss = loss + objective.consistency * found.divergence_E.sum() / batch.num_labels_full * counted
        if objective.attention:
            loss = loss + objective.attention * found.attention_E.sum() / batch.num_full_views * counted
        return loss

    def _placed(self, values: Sequence[Tensor]) -> Tensor:
        """Return the micro-batches' values in the order of the examples, full views first, then masked views."""
        batches, num_own = self._batch.micro_batches, self._batch.num_own
        place_E = torch.cat([one.places_E for one in batches])
        counted_E = torch.cat([torch.full_like(one.places_E, not one.idle, dtype=torch.bool) for one in batches])
        num_rows = num_own * (1 if (place_E < num_own).all() else 2)
        order = torch.empty(num_rows, dtype=torch.long, device=place_E.device)
        order[place_E[counted_E]] = counted_E.nonzero()[:, 0]
        return torch.cat(list(values))[order]

    def _contrast(self, z_2bD: Tensor) -> losses.Contrast:
        """Return the contrastive loss of the whole batch; only this process's representations carry a gradient."""
        num_own = self._batch.num_own
        views: list[Tensor] = []
        for own_bD in losses.at_least_fp32(z_2bD).chunk(2):
            all_BD = self._processes.gather(own_bD)
            first = self._processes.rank * num_own
            views.append(torch.cat([all_BD[:first], own_bD, all_BD[first + num_own :]]))
        excluded_BB = self._batch.same_document_BB if self._objective.same_document == "mask" else None
        return losses.info_nce(views[0], views[1], self._objective.temperature, excluded_BB)

    def _losses(self, found: Sequence[_ForwardOutput], contrast: losses.Contrast | None) -> StepLosses:
        objective, batch, gather = self._objective, self._batch, self._processes.gather
        clm_2b = self._placed([one.clm_E.detach() for one in found])
        clm = [gather(part_b) for part_b in clm_2b.reshape(-1, batch.num_own)]
        logged = {"clm_full": clm[0].sum() / batch.num_labels_full}
        loss = objective.full * logged["clm_full"]
        if len(clm) > 1:
            logged["clm_masked"] = clm[1].sum() / batch.num_labels_masked
            loss = loss + objective.masked * logged["clm_masked"]
        if objective.consistency:
            divergence_b = self._placed([one.divergence_E.detach() for one in found])[: batch.num_own]
            logged["consistency"] = gather(divergence_b).sum() / batch.num_labels_full
            loss = loss + objective.consistency * logged["consistency"]
        if objective.attention:  # `accumulate` adds it to the loss, together with that of the distillation examples
            attention_b = self._placed([one.attention_E.detach() for one in found])[: batch.num_own]
            logged["attention"] = gather(attention_b).sum() / batch.num_full_views
        if contrast is not None:
            loss = loss + objective.contrastive * contrast.loss.detach()
            logged |= {
                "info_nce": contrast.loss.detach(),
                "in_batch_accuracy": contrast.in_batch_accuracy,
                "alignment": contrast.alignment,
                "alignment_others": contrast.alignment_others,
            }
        return StepLosses({"loss": loss} | logged, clm[0], clm[1] if len(clm) > 1 else None)


def _random_state(device: torch.device) -> list[Tensor]:
    own = () if device.type == "cpu" else (torch.get_device_module(device).get_rng_state(device),)
    return [torch.get_rng_state(), *own]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for own in state[1:]:
        torch.get_device_module(device).set_rng_state(own, device)
