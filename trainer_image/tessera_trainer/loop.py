"""The training loop: read it from top to bottom. Every part it names owns one thing; nothing else happens between
steps.

What must stay true: every rank takes the same branch before a collective, so whatever one rank alone knows (a stop
order, its share of the work) is agreed on first; `position` is all the state of the data order; what is reported
never decides anything.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tessera_keeper.part_file import Progress
from tessera_run import Run
from tessera_run.run import declared
from tessera_trainer.evidence import Evidence
from tessera_trainer.exact import ExactGradients
from tessera_trainer.meter import Meter, StepWork
from tessera_trainer.micro_batch import MicroBatch
from tessera_trainer.optimiser import AdamW, Update
from tessera_trainer.parallel import World
from tessera_trainer.saver import Saver, Saving
from tessera_trainer.schedule import Schedule
from tessera_trainer.shape import ModelShape
from tessera_trainer.training_data import TrainingData, Units


@dataclass(frozen=True)
class Parts:
    """What a training is made of."""

    world: World
    model: torch.nn.Module
    data: TrainingData
    gradients: ExactGradients[MicroBatch]
    optimiser: AdamW
    schedule: Schedule
    saver: Saver
    meter: Meter
    evidence: Evidence
    total_steps: int
    global_batch: int
    sequence_length: int
    shape: ModelShape


@dataclass(frozen=True)
class Agreed:
    """What all ranks know after a step."""

    stop: bool
    attention_pairs: int
    data_seconds: float
    """The longest wait for data of any rank."""


class NonFinite(ArithmeticError):
    """Loss or gradient norm is no number: training cannot go on from here."""


def train(run: Run, parts: Parts, progress: Progress) -> Progress:
    """From `progress` to the last step, checkpoints included; parks for good when a stop is ordered."""
    run.phase("train", progress.step)
    while progress.step < parts.total_steps:
        began = time.perf_counter()
        units = parts.data.units(progress.position, parts.gradients.mine)
        batches = [batch.to(parts.world.device) for batch in units.batches]
        counts = [batch.token_count for batch in batches]
        done = parts.gradients.run(batches, counts, lambda batch: parts.model(batch)[0], lambda _: run.progress(1))
        update = parts.optimiser.step(parts.schedule.rate(progress.step))
        if not update.applied or not math.isfinite(done.loss):
            raise NonFinite(f"step {progress.step + 1}: loss {done.loss}, gradient norm {update.norm}")
        progress = _after(progress, parts)
        agreed = _agree(parts.world, run, units)
        parts.evidence.step(progress.step, done.loss, update.norm, units.ids, parts.gradients.mine)
        _report(run, parts, progress, (done.loss, update, agreed, time.perf_counter() - began))
        parts.saver.check()
        if agreed.stop:
            _finish(run, parts, progress)
            run.park(progress.step)
        wanted = parts.saver.due(progress.step, parts.total_steps)
        if wanted and (all_can := Saving(_least(parts.world, parts.saver.able(wanted)))):
            parts.saver.save(progress, all_can)
    _finish(run, parts, progress)
    return progress


def _finish(run: Run, parts: Parts, progress: Progress) -> None:
    """Nothing follows before the last commit, however long the storage takes."""
    with declared(run, "checkpoint", progress.step):
        parts.saver.finish(progress)


def _after(progress: Progress, parts: Parts) -> Progress:
    return Progress(
        step=progress.step + 1,
        position=progress.position + parts.global_batch,
        updates=parts.optimiser.updates,
        skips=progress.skips,
    )


def _agree(world: World, run: Run, units: Units) -> Agreed:
    """One small collective: whoever knows of a stop order makes all of them stop; work is summed."""
    stop = 1 if run.should_stop() else 0
    pairs = sum(batch.attention_pairs for batch in units.batches)
    wait = round(units.seconds * 1e6)
    mine = torch.tensor([stop, pairs, wait], dtype=torch.int64, device=world.device)
    all_of_them = torch.empty(world.size * 3, dtype=torch.int64, device=world.device)
    dist.all_gather_into_tensor(all_of_them, mine, group=world.group)
    rows = all_of_them.view(world.size, 3).tolist()
    return Agreed(any(row[0] for row in rows), sum(row[1] for row in rows), max(row[2] for row in rows) / 1e6)


def _least(world: World, mine: int) -> int:
    """One small collective: the least of all ranks'."""
    least = torch.tensor(mine, dtype=torch.int64, device=world.device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN, group=world.group)
    return int(least.item())


def _report(run: Run, parts: Parts, progress: Progress, result: tuple[float, Update, Agreed, float]) -> None:
    loss, update, agreed, seconds = result
    per_step = parts.global_batch * parts.sequence_length
    left = (parts.total_steps - progress.step) * per_step
    reading = parts.meter.step(StepWork(per_step, agreed.attention_pairs), time.monotonic(), left)
    speed = {}
    if reading is not None:
        speed = {
            "tokens_per_second": reading.tokens_per_second,
            "mfu": reading.mfu,
            "mfu_6nd": reading.mfu_6nd,
        }
    run.step(
        progress.step,
        progress.step * per_step,
        loss,
        grad_norm=update.norm,
        lr=parts.schedule.rate(progress.step - 1),
        seconds=seconds,
        data_seconds=agreed.data_seconds,
        **speed,
    )
