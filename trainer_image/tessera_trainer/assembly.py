"""From run.json to the parts of a training. Nothing here computes; everything here is decided by the run's document
alone."""

from __future__ import annotations

import os
import time
from decimal import Decimal
from pathlib import Path

import torch

from tessera_api.resolved_run import Device, ResolvedRun
from tessera_api.training import Compilation, Recomputation
from tessera_api.training import LossGuard as AskedGuard
from tessera_api.training import Precision as AskedPrecision
from tessera_api.training import Training as AskedTraining
from tessera_keeper.keeping import Keeper
from tessera_run import Run
from tessera_store import open_store
from tessera_trainer.adapter import Adapter, adapter_parameters
from tessera_trainer.evidence import VARIABLE, Evidence
from tessera_trainer.exact import ExactGradients
from tessera_trainer.guard import LossGuard
from tessera_trainer.guard_rule import Rule
from tessera_trainer.initialise import initialise
from tessera_trainer.loop import Parts
from tessera_trainer.meter import Meter
from tessera_trainer.micro_batch import MicroBatch
from tessera_trainer.model import Decoder
from tessera_trainer.optimiser import AdamW, AdamWSettings
from tessera_trainer.origin import load_origin, read_origin, shape_for
from tessera_trainer.parallel import Accelerator, Precision, World, prepare
from tessera_trainer.peak import Arithmetic, peak_of
from tessera_trainer.saver import Rhythm, Saver
from tessera_trainer.schedule import Schedule, ScheduleKind
from tessera_trainer.slow_ranks import SlowRanks
from tessera_trainer.training_data import TrainingData
from tessera_trainer.units import UnitPlan

ACCELERATORS = {Device.CPU: Accelerator.CPU, Device.CUDA: Accelerator.CUDA}


def assemble(run: Run, resolved: ResolvedRun, world: World, cache: Path, keeper: Keeper) -> Parts:
    """The parts, on this rank's device; weights are fresh, or the origin's, or about to be restored."""
    spec, training = resolved.run.spec, resolved.run.spec.training
    data = TrainingData(resolved, run.skips, cache)
    store = open_store(resolved.storage)
    first = read_origin(resolved, store)
    shape = shape_for(resolved, first, data.vocabulary)
    narrow = training.precision is AskedPrecision.BF16
    with torch.device("meta"):
        model = Decoder(shape, adapter=_adapter(training))
    precision = Precision.BFLOAT16 if narrow else Precision.FLOAT32
    sharded = prepare(
        model,
        world,
        precision,
        compiled=training.compile is Compilation.BLOCKS,
        checkpointed=training.activation_checkpointing is Recomputation.BLOCKS,
    )
    optimiser = AdamW(model, _settings(training), world.group)
    if run.resume() is None:
        if first is None or training.lora is not None:
            initialise(model, training.seed)
        if first is not None:
            load_origin(first, shape, optimiser)
    plan = UnitPlan(training.units, world.size)
    gradients: ExactGradients[MicroBatch] = ExactGradients(sharded, plan, world.group, world.device)
    peak = peak_of(world.device, Arithmetic.BF16 if narrow else Arithmetic.FP32, cache)
    return Parts(
        world=world,
        model=model,
        data=data,
        gradients=gradients,
        optimiser=optimiser,
        schedule=_schedule(training, spec.total_steps),
        saver=Saver(run, optimiser, keeper, Rhythm(spec.checkpoint.every, spec.checkpoint.snapshots())),
        guard=_guard(training, spec.total_steps, run),
        meter=Meter(shape, peak, world.size, started=time.monotonic(), adapter=adapter_parameters(model)),
        slow_ranks=SlowRanks(),
        evidence=Evidence(os.environ.get(VARIABLE), run.generation, run.rank),
        total_steps=spec.total_steps,
        global_batch=training.global_batch,
        sequence_length=spec.data.sequence_length,
        shape=shape,
    )


def _adapter(training: AskedTraining) -> Adapter | None:
    return None if training.lora is None else Adapter(training.lora.rank, float(training.lora.alpha))


def _guard(training: AskedTraining, total_steps: int, run: Run) -> LossGuard:
    """Where the schedule turns, losses may turn too."""
    schedule = _schedule(training, total_steps)
    turns = {schedule.warmup_steps + 1, total_steps - schedule.decay_steps + 1}
    return LossGuard(Rule(frozenset(turns)), run.rewinds, acts=training.loss_guard is AskedGuard.ACT)


def _settings(training: AskedTraining) -> AdamWSettings:
    return AdamWSettings(weight_decay=float(training.weight_decay), max_norm=float(training.clip_norm))


def _schedule(training: AskedTraining, total_steps: int) -> Schedule:
    asked = training.schedule
    kind = ScheduleKind(asked.kind.value)
    decay = int(Decimal(total_steps) * asked.decay) if kind is ScheduleKind.WSD else 0
    return Schedule(
        kind=kind,
        peak=str(training.learning_rate),
        total_steps=total_steps,
        warmup_steps=asked.warmup_steps,
        decay_steps=min(decay, total_steps - asked.warmup_steps),
        final_share=str(asked.minimum_share),
    )
