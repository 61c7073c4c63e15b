"""Exact mode: gradients with the same bits at every world size (design.md §2.7, small-model mode).

A rank runs its units one after the other. A hook takes each full-size gradient as soon as autograd has made it and
folds it, in float32, along the fixed tree of `units`; FSDP2's own running sum never happens. In the backward pass of
the rank's last unit FSDP2 asks for its reduce-scatter; ours exchanges shards by all-to-all and sums them along the same
tree on the rank that owns them.

What must stay true:
- Weights stay gathered from a step's first forward pass to its last backward pass. So a step gathers once and reduces
  once on each rank, whatever number of units the rank has, and ranks with fewer units need no dummies.
- Each parameter gets one gradient per unit; another count raises ValueError, on all ranks alike.
- Memory: log2(units per rank) + 1 full-size float32 gradients, beside the gathered weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tessera_trainer import fsdp_edges
from tessera_trainer.units import Node, TreeFold, UnitPlan, combine
from tessera_trainer.waits import Waits

Batch = TypeVar("Batch")


def _add(left: Tensor, right: Tensor) -> Tensor:
    return left.add_(right)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """What a step's forward and backward passes gave; equal on every rank, and at every world size."""

    loss: float
    """Mean over the tokens that count."""
    tokens: int
    """How many tokens counted, in the whole global batch."""
    unit_losses: tuple[float, ...]
    """Sums over the tokens of each unit, in order."""


class ExactGradients(Generic[Batch]):
    """Runs the units of a step and leaves the summed gradients in the model's parameters (`.grad`, sharded, float32).

    `model` is sharded by FSDP2 over `group` with `reshard_after_forward=False` (`parallel.prepare` does). Raises
    TorchEdgeMissing where torch is another one, ValueError where the group has more ranks than there are units.
    """

    def __init__(self, model: FSDPModule, plan: UnitPlan, group: dist.ProcessGroup, device: torch.device) -> None:
        fsdp_edges.require()
        if group.size() != plan.world_size:
            raise ValueError(f"the plan is for {plan.world_size} ranks, the group has {group.size()}")
        self._model, self._plan, self._group, self._device = model, plan, group, device
        self._waits, self._alone = Waits(device), 0.0
        self._mine = plan.of(group.rank())
        self._unit: int | None = None
        self._folds: dict[nn.Parameter, TreeFold[Tensor]] = {}
        self._folded: dict[nn.Parameter, tuple[Tensor, ...]] = {}
        self._reductions: list[_TreeReduction] = []
        fsdp_edges.replace_gather(model, fsdp_edges.TimedGather(self._waits.waiting))
        fsdp_edges.replace_reduction(model, self._reduction)

    @property
    def plan(self) -> UnitPlan:
        """Which rank runs which units."""
        return self._plan

    @property
    def alone_s(self) -> float:
        """What this rank spent on the units of the last step, without its waits for others."""
        return self._alone

    @property
    def mine(self) -> range:
        """The units that this rank runs."""
        return self._mine

    def run(
        self,
        batches: Sequence[Batch],
        tokens: Sequence[int],
        forward: Callable[[Batch], Tensor],
        on_unit: Callable[[int], None] = lambda unit: None,
    ) -> StepLoss:
        """One step over this rank's units: `batches` and `tokens` (that count) of each, in the order of `mine`.

        `forward` gives the loss of a batch, summed over its tokens (a float32 scalar). `on_unit` hears of each unit
        that is done. A non-finite loss is returned as it is. Raises ValueError where no token counts at all.
        """
        if not len(batches) == len(tokens) == len(self._mine):
            raise ValueError(f"this rank runs {len(self._mine)} units, and was given {len(batches)}")
        total = self._total(sum(tokens))
        began, losses = time.perf_counter(), []
        self._waits.take()
        for unit, batch in zip(self._mine, batches, strict=True):
            losses.append(self._run_unit(unit, batch, forward, 1.0 / total))
            on_unit(unit)
        self._folded.clear()
        unit_losses = self._gather(torch.stack(losses))  # waits for the device
        self._alone = max(0.0, time.perf_counter() - began - self._waits.take())
        return StepLoss(sum_exactly(unit_losses) / total, total, unit_losses)

    def _run_unit(self, unit: int, batch: Batch, forward: Callable[[Batch], Tensor], scale: float) -> Tensor:
        last = unit == self._mine[-1]
        self._model.set_requires_gradient_sync(last)
        self._model.set_reshard_after_backward(last)
        loss = forward(batch)
        self._install_hooks()
        self._unit = unit
        (loss * scale).backward()  # type: ignore[no-untyped-call]  # scaled before, so that no gradient is rescaled
        self._unit = None
        return loss.detach().float()

    def _reduction(self, module: FSDPModule) -> fsdp_edges.GroupReduction:
        reduction = _TreeReduction(self._plan, self._folded, module, self._waits)
        self._reductions.append(reduction)
        return reduction

    def _install_hooks(self) -> None:
        """Once, after the first forward pass: only then are the full-size parameters there."""
        if self._folds:
            return
        for reduction in self._reductions:
            for parameter in reduction.bind():
                self._folds[parameter] = TreeFold(self._plan.units, _add)
                parameter.register_post_accumulate_grad_hook(self._take)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _take(self, parameter: Tensor) -> None:
        """The hook: takes the gradient of this unit away from FSDP2, and hands it the last subtree's sum at the end."""
        gradient, unit = parameter.grad, self._unit
        if gradient is None or unit is None or not isinstance(parameter, nn.Parameter):
            raise ValueError("a gradient came outside a unit's backward pass; exact mode must run the backward pass")
        if gradient.dtype != torch.float32:
            raise fsdp_edges.TorchEdgeMissing(f"a gradient came as {gradient.dtype}, not as float32")
        parameter.grad = None
        fold = self._folds[parameter]
        fold.push(unit, gradient)
        if unit == self._mine[-1]:
            *early, parameter.grad = fold.take(self._plan.cover(self._group.rank()))
            self._folded[parameter] = tuple(early)

    def _total(self, mine: int) -> int:
        """The sum of whole numbers over ranks, exact in any order."""
        total = torch.tensor(mine, dtype=torch.int64, device=self._device)
        dist.all_reduce(total, group=self._group)
        if total.item() == 0:
            raise ValueError("no token of the whole global batch counts towards the loss; look at the loss mask")
        return int(total.item())

    def _gather(self, losses: Tensor) -> tuple[float, ...]:
        """The losses of all units in order, from this rank's (float32, one for each of its units)."""
        ranks, longest = self._plan.world_size, self._plan.steps
        padded = torch.zeros(longest, device=self._device)
        padded[: len(losses)] = losses
        gathered = torch.empty(ranks * longest, device=self._device)
        with self._waits.waiting():
            dist.all_gather_into_tensor(gathered, padded, group=self._group)
        rows = gathered.view(ranks, longest).tolist()
        return tuple(loss for rank, row in enumerate(rows) for loss in row[: len(self._plan.of(rank))])


class _TreeReduction(fsdp_edges.GroupReduction):
    """All-to-all of gradient shards, then their sum along the tree on the owner."""

    def __init__(
        self, plan: UnitPlan, folded: dict[nn.Parameter, tuple[Tensor, ...]], module: FSDPModule, waits: Waits
    ) -> None:
        self._plan, self._folded, self._module, self._waits = plan, folded, module, waits
        self._covers = [plan.cover(rank) for rank in range(plan.world_size)]
        self._parameters: tuple[nn.Parameter, ...] = ()

    def bind(self) -> tuple[nn.Parameter, ...]:
        """The full-size parameters of the module; call after its first forward pass."""
        self._parameters = fsdp_edges.take_over(self._module)
        return self._parameters

    def reduce(self, output: Tensor, packed: Tensor, group: dist.ProcessGroup) -> None:
        """A rank's last subtree lies in `packed`; earlier ones, where W is not aligned, go in rounds before."""
        parts: dict[Node, Tensor] = {}
        for back in range(self._plan.rounds, 0, -1):
            senders = [rank for rank, cover in enumerate(self._covers) if len(cover) >= back]
            sends = group.rank() in senders
            mine = packed if back == 1 else self._packed_early(back, packed) if sends else packed
            with self._waits.waiting():
                received = _exchange(mine, senders, sends, group)
            parts |= {self._covers[rank][-back]: part for rank, part in zip(senders, received, strict=True)}
        output.copy_(combine(parts, self._plan.root, _add))

    def _packed_early(self, back: int, like: Tensor) -> Tensor:
        """The shards of this rank's subtree that stands `back` places from the end of its cover."""
        buffer = torch.empty_like(like)
        gradients = [self._folded[parameter][-(back - 1)] for parameter in self._parameters]
        fsdp_edges.pack(gradients, buffer, self._plan.world_size)
        return buffer


def _exchange(packed: Tensor, senders: Sequence[int], sends: bool, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """What each of `senders` holds for this rank, in their order. `packed` is [ranks * n]; each part is [n]."""
    ranks = group.size()
    length = packed.numel() // ranks
    received = torch.empty(len(senders) * length, dtype=packed.dtype, device=packed.device)
    dist.all_to_all_single(
        received,
        packed if sends else packed[:0],
        [length if rank in senders else 0 for rank in range(ranks)],
        [length if sends else 0] * ranks,
        group=group,
    )
    return torch.split(received, length)


def sum_exactly(values: Sequence[float]) -> float:
    """The correctly rounded sum, which no order can change; a non-finite value makes it non-finite."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
