"""The training loop: read it from top to bottom. Every part it names owns one thing; nothing else happens between
steps.

What must stay true: every rank takes the same branch before a collective, so whatever one rank alone knows (a stop
order, its share of the work) is agreed on first; `position` is all the state of the data order; what is reported
never decides anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
import torch.distributed as dist

from tessera_api.messages import STRAGGLER
from tessera_keeper.part_file import Progress
from tessera_run import Run, Span
from tessera_run.run import declared
from tessera_trainer.evidence import Evidence
from tessera_trainer.exact import ExactGradients, StepLoss
from tessera_trainer.guard import BEYOND, LossGuard
from tessera_trainer.guard_rule import Verdict
from tessera_trainer.meter import Meter, StepWork
from tessera_trainer.micro_batch import MicroBatch
from tessera_trainer.optimiser import AdamW, Update
from tessera_trainer.parallel import World
from tessera_trainer.saver import Saver, Saving
from tessera_trainer.schedule import Schedule
from tessera_trainer.second_opinion import ask_all, doubt_of
from tessera_trainer.shape import ModelShape
from tessera_trainer.slow_ranks import SlowRanks
from tessera_trainer.training_data import TrainingData, Units

SPIKE = 8.0
"""What weights are multiplied with by a drill."""


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
    guard: LossGuard
    meter: Meter
    evidence: Evidence
    slow_ranks: SlowRanks
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
    alone: tuple[float, ...]
    """What each rank spent on its units, without its waits for others."""


@dataclass(frozen=True)
class Result:
    """What came of a step."""

    loss: float
    update: Update
    agreed: Agreed
    learned: int
    """Tokens that counted."""
    seconds: float


def train(run: Run, parts: Parts, progress: Progress) -> Progress:
    """From `progress` to the last step, checkpoints included; parks for good when a stop is ordered."""
    run.phase("train", progress.step)
    while progress.step < parts.total_steps:
        began = time.perf_counter()
        _hurt_reading(run, parts)
        units = parts.data.units(progress.position, parts.gradients.mine)
        batches = [batch.to(parts.world.device) for batch in units.batches]
        counts = [batch.token_count for batch in batches]
        done = parts.gradients.run(batches, counts, _forward(run, parts), lambda _: run.progress(1))
        update = parts.optimiser.step(_rate(parts, progress.step), partial(_accepts, parts, progress.step + 1, done))
        if not update.applied and (doubt := doubt_of(done.unit_losses, parts.gradients.plan)) is not None:
            ask_all(doubt, parts.model, parts.data.rows(progress.position, doubt.unit), parts.world)
        if parts.guard.looked.verdict is Verdict.GO_BACK:
            _go_back(run, parts, progress)
        progress = _after(progress, parts)
        agreed = _agree(parts, run, units)
        parts.slow_ranks.step(agreed.alone, parts.gradients.plan.counts)
        parts.evidence.step(progress.step, done.loss, update.norm, units.ids, parts.gradients.mine)
        _report(run, parts, progress, Result(done.loss, update, agreed, done.tokens, time.perf_counter() - began))
        parts.saver.check()
        if agreed.stop:
            _finish(run, parts, progress)
            run.park(progress.step)
        wanted = parts.saver.due(progress.step, parts.total_steps)
        if wanted and (all_can := Saving(_least(parts.world, parts.saver.able(wanted)))):
            parts.saver.save(_with_guard(progress, parts), all_can)
    _finish(run, parts, progress)
    return progress


def _finish(run: Run, parts: Parts, progress: Progress) -> None:
    """Nothing follows before the last commit, however long the storage takes."""
    with declared(run, "checkpoint", progress.step):
        parts.saver.finish(_with_guard(progress, parts))


def _forward(run: Run, parts: Parts) -> Callable[[MicroBatch], torch.Tensor]:
    """The loss of a batch; of one that is no number, or of weights that are wrong, where a drill wants that."""
    if run.drilled("nan-gradient"):
        return lambda batch: parts.model(batch)[0] * math.nan
    if run.drilled("loss-spike"):
        for shard in parts.optimiser.weights():
            shard.local.mul_(SPIKE)
    return lambda batch: parts.model(batch)[0]


def _hurt_reading(run: Run, parts: Parts) -> None:
    """As a drill wants it."""
    if run.drilled("loader-exception"):
        parts.data.hurt("in a thread")
    if run.drilled("corrupt-shard"):
        parts.data.hurt("a wrong bit")


def _accepts(parts: Parts, step: int, done: StepLoss, norm: float) -> bool:
    return parts.guard.accepts(step, done.loss, norm)


def _rate(parts: Parts, step: int) -> float:
    return parts.schedule.rate(step) * parts.guard.rate_share(step)


def _with_guard(progress: Progress, parts: Parts) -> Progress:
    return progress.model_copy(update={"guard": parts.guard.text()})


def _go_back(run: Run, parts: Parts, progress: Progress) -> NoReturn:
    """All ranks come here at the same step; the next generation begins before the rise, without its data."""
    plan = parts.guard.plan(progress.step + 1)
    first = parts.data.raw(plan.skip_from * parts.global_batch)
    last = parts.data.raw((progress.step + 1) * parts.global_batch) + BEYOND * parts.global_batch
    if run.rank == 0:
        words = f"step {progress.step + 1}: {parts.guard.looked.words}"
        run.rewind(Span(plan.to_step, progress.step + 1), words, Span(first, last), plan.slower)
    run.wait_for_the_end()


def _after(progress: Progress, parts: Parts) -> Progress:
    return Progress(
        step=progress.step + 1,
        position=progress.position + parts.global_batch,
        updates=parts.optimiser.updates,
        skips=progress.skips,
    )


def _agree(parts: Parts, run: Run, units: Units) -> Agreed:
    """One small collective: whoever knows of a stop order makes all of them stop; work is summed."""
    world = parts.world
    stop = 1 if run.should_stop() else 0
    pairs = sum(batch.attention_pairs for batch in units.batches)
    wait = round(units.seconds * 1e6)
    alone = round(parts.gradients.alone_s * 1e6)
    mine = torch.tensor([stop, pairs, wait, alone], dtype=torch.int64, device=world.device)
    all_of_them = torch.empty(world.size * 4, dtype=torch.int64, device=world.device)
    dist.all_gather_into_tensor(all_of_them, mine, group=world.group)
    stops, all_pairs, waits, all_alone = zip(*all_of_them.view(world.size, 4).tolist(), strict=True)
    return Agreed(any(stops), sum(all_pairs), max(waits) / 1e6, tuple(each / 1e6 for each in all_alone))


def _least(world: World, mine: int) -> int:
    """One small collective: the least of all ranks'."""
    least = torch.tensor(mine, dtype=torch.int64, device=world.device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN, group=world.group)
    return int(least.item())


def _report(run: Run, parts: Parts, progress: Progress, result: Result) -> None:
    """A step whose loss is no number is told as a note alone."""
    update, agreed = result.update, result.agreed
    if parts.guard.looked.words and run.rank == 0:
        what = "LossDrift" if update.applied else "UpdateLeftOut"
        run.note(what, f"step {progress.step}: {parts.guard.looked.words}")
    if not (math.isfinite(result.loss) and math.isfinite(update.norm)):
        return
    per_step = parts.global_batch * parts.sequence_length
    left = (parts.total_steps - progress.step) * per_step
    learned = result.learned if parts.data.of_chat else None
    reading = parts.meter.step(StepWork(per_step, agreed.attention_pairs, learned), time.monotonic(), left)
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
        result.loss,
        grad_norm=update.norm,
        lr=_rate(parts, progress.step - 1) if update.applied else 0.0,
        seconds=result.seconds,
        data_seconds=agreed.data_seconds,
        **speed,
        **({} if learned is None else {"learned_tokens": float(learned)}),
        **{f"{STRAGGLER}{rank}": score for rank, score in parts.slow_ranks.named().items()},
    )
