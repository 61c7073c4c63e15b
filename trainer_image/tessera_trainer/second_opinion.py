"""Whose fault is a loss that is no number? The unit in question is computed once more on every rank.

Finite on another rank: the device that made it is not to be trusted, and its trainer says so and ends; the step is
computed again by the next generation. Not finite anywhere: it is the data's, or the weights', and the step stays left
out. A gradient that is no number although every loss is one cannot be given to a unit; it is left out too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tessera_trainer.micro_batch import MicroBatch
from tessera_trainer.parallel import World
from tessera_trainer.units import UnitPlan


class SickDevice(ArithmeticError):
    """This rank's device made a number of nothing that others made a number of."""


@dataclass(frozen=True)
class Doubt:
    """A unit whose loss came out as no number."""

    unit: int
    owner: int
    """The rank that computed it."""


def doubt_of(unit_losses: Sequence[float], plan: UnitPlan) -> Doubt | None:
    """The first such unit, by the losses that all ranks know; None where all are numbers."""
    for unit, loss in enumerate(unit_losses):
        if not math.isfinite(loss):
            owner = next(rank for rank in range(plan.world_size) if unit in plan.of(rank))
            return Doubt(unit, owner)
    return None


@torch.no_grad()
def ask_all(doubt: Doubt, model: torch.nn.Module, batch: MicroBatch, world: World) -> None:
    """Every rank calls it, with the doubted unit. Raises SickDevice on the rank that it is true of."""
    loss, _ = model(batch.to(world.device))
    finite = torch.tensor([int(math.isfinite(float(loss)))], dtype=torch.int64, device=world.device)
    answers = torch.empty(world.size, dtype=torch.int64, device=world.device)
    dist.all_gather_into_tensor(answers, finite, group=world.group)
    fine = [rank for rank, answer in enumerate(answers.tolist()) if answer]
    if fine and world.rank == doubt.owner:
        raise SickDevice(f"unit {doubt.unit} had no finite loss on rank {doubt.owner}, and has one on ranks {fine}")
    if fine:
        # Its owner ends now: what follows would wait for it.
        dist.barrier(group=world.group)
