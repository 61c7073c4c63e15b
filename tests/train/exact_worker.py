"""Trains a tiny model in forked ranks, once per case, and writes what came out: `exact_worker.py CASES.json`.

A case is {"world": W, "steps": [first, last], "precision", "compiled", "checkpointed", "tied", "experts", "adapter",
"evaluated", "store", "resume", "save", "plain", "out"}. torch is imported once, by the parent, which never computes;
each case forks its ranks. `out` gets {"losses", "norms", "weights", "state", "part"...} of rank 0 and the parts that
all ranks saved; with "plain", how far loss and gradients of the first step are from those of one backward pass without
FSDP2, units or ranks.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters
from torch.multiprocessing import start_processes

from tessera_api.checkpoint import CheckpointPrefix
from tessera_api.log import StoredObject
from tessera_keeper.keeping import Keeping
from tessera_keeper.part_file import Progress
from tessera_store import open_store
from tessera_trainer.adapter import Adapter
from tessera_trainer.checkpoint import CheckpointWriter, Ranks
from tessera_trainer.digest import numbers_digest, state_digest
from tessera_trainer.exact import ExactGradients
from tessera_trainer.initialise import initialise
from tessera_trainer.micro_batch import MicroBatch, pack
from tessera_trainer.model import Decoder
from tessera_trainer.optimiser import AdamW, AdamWSettings
from tessera_trainer.parallel import Accelerator, Precision, World, join_world, prepare
from tessera_trainer.restore import restore
from tessera_trainer.shape import ModelShape
from tessera_trainer.style import Mixture, Style
from tessera_trainer.units import UnitPlan

UNITS, ROWS, LENGTH, VOCABULARY = 6, 2, 16, 203
LIMIT_S = 60.0
ADAPTER = Adapter(rank=4, alpha=8.0)
EXPERTS = Style(mixture=Mixture(count=5, chosen=2, width=24, shared=16, balance=0.1, dense=(True, False)))


@dataclass
class Training:
    """What a rank works with."""

    world: World
    model: Any
    gradients: ExactGradients[MicroBatch]
    optimiser: AdamW


def micro_batch(step: int, unit: int) -> MicroBatch:
    """A function of step and unit alone, with three documents a row or four: the units' tokens that count differ."""
    generator = torch.Generator().manual_seed(1000 * step + unit)
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator)
    cuts = torch.stack([2 + torch.randperm(LENGTH - 4, generator=generator)[: 2 + unit % 2] for _ in range(ROWS)])
    return pack(tokens, (torch.arange(LENGTH + 1) >= cuts.unsqueeze(2)).sum(1))


def shape_of(case: dict[str, Any]) -> ModelShape:
    return ModelShape(
        vocabulary=VOCABULARY,
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2,
        ffn=131,
        sequence_length=LENGTH,
        rope_theta=10000.0,
        tied=case.get("tied", False),
        style=EXPERTS if case.get("experts") else Style(),
    )


def build(case: dict[str, Any]) -> Training:
    world = join_world(Accelerator.CPU, local_rank=0, threads=1, limit_s=LIMIT_S)
    decoder = Decoder(shape_of(case), adapter=ADAPTER if case.get("adapter") else None)
    model = prepare(
        decoder,
        world,
        Precision(case.get("precision", "float32")),
        compiled=case.get("compiled", False),
        checkpointed=case.get("checkpointed", False),
    )
    initialise(decoder, seed=7)
    gradients = ExactGradients[MicroBatch](model, UnitPlan(UNITS, world.size), world.group, world.device)
    return Training(world, model, gradients, AdamW(decoder, AdamWSettings(max_norm=0.5), world.group))


def run(case: dict[str, Any]) -> dict[str, Any]:
    training = build(case)
    store = open_store(case["store"]) if "store" in case else None
    first, last = case["steps"]
    if "resume" in case:
        assert store is not None
        objects = [StoredObject.model_validate(stored) for stored in case["resume"]]
        progress = restore(objects, store, list(training.optimiser.state()))
        training.optimiser.updates, first = progress.updates, progress.step
    if case.get("evaluated"):
        with torch.no_grad():
            training.model(micro_batch(99, 0))
    losses, norms = [], []
    for step in range(first, last):
        batches = [micro_batch(step, unit) for unit in training.gradients.mine]
        counts = [batch.token_count for batch in batches]
        losses.append(training.gradients.run(batches, counts, lambda batch: training.model(batch)[0]).loss)
        if case.get("plain"):
            return distance(case, step, losses[-1], training.model)
        norms.append(training.optimiser.step(1e-3).norm)
    group = training.world.group
    result = {
        "losses": numbers_digest(losses),
        "norms": numbers_digest(norms),
        "weights": state_digest(training.optimiser.weights(), group),
        "state": state_digest(training.optimiser.state(), group),
        "loss": losses[-1],
        "graphs": counters["stats"]["unique_graphs"],
    }
    if case.get("save"):
        assert store is not None
        result["parts"] = save(case, training, store, last)
    return result


def distance(case: dict[str, Any], step: int, loss: float, model: Any) -> dict[str, Any]:
    """The mean over all tokens that count, and its gradient, by the book."""
    plain = Decoder(shape_of(case), device="cpu")
    initialise(plain, seed=7)
    batches = [micro_batch(step, unit) for unit in range(UNITS)]
    counts = [batch.token_count for batch in batches]
    mean = torch.stack([plain(batch)[0] for batch in batches]).sum() / sum(counts)
    mean.backward()  # type: ignore[no-untyped-call]
    ours = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    theirs = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.grad is not None}
    assert ours.keys() == theirs.keys()
    worst = max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in ours)
    return {"counts": counts, "loss": abs(loss - mean.item()), "gradients": worst}


def save(case: dict[str, Any], training: Training, store: Any, step: int) -> list[dict[str, Any]]:
    world, optimiser = training.world, training.optimiser
    writer = CheckpointWriter(Keeping(lambda: store, lambda part: None), Ranks(world.rank, world.size), limit_s=LIMIT_S)
    prefix = CheckpointPrefix(step=step, term=1, generation=world.size, nonce=case["save"])
    progress = Progress(step=step, position=step * UNITS * ROWS, updates=optimiser.updates)
    saved = writer.save(list(optimiser.state()), progress, prefix)
    for shard in optimiser.state():
        shard.local.fill_(-1.0)  # the copy was taken: what follows cannot reach it
    parts: list[Any] = [None] * world.size
    dist.all_gather_object(parts, saved.wait(LIMIT_S).model_dump())
    return parts


def rank_main(rank: int, case: dict[str, Any], port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(case["world"]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    result = run(case)
    if rank == 0:
        Path(case["out"]).write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def run_case(case: dict[str, Any], limit_s: float) -> None:
    """Forks the ranks and waits for them. Raises what a rank failed with, TimeoutError at the limit; leaves nobody."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = start_processes(rank_main, (case, port), nprocs=case["world"], join=False, start_method="fork")  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + limit_s
    while not ranks.join(timeout=max(0.0, deadline - time.monotonic())):
        if time.monotonic() >= deadline:
            for process in ranks.processes:
                process.kill()
            raise TimeoutError(f"not done after {limit_s} s: {case}")


def main() -> None:
    """Runs the cases in order. A case whose "resume" is a path takes the parts from that file."""
    for case in json.loads(Path(sys.argv[1]).read_text()):
        if isinstance(case.get("resume"), str):
            case["resume"] = json.loads(Path(case["resume"]).read_text())["parts"]
        run_case(case, limit_s=120.0)


if __name__ == "__main__":
    main()
