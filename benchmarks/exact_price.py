"""Exact mode's price: CPU time of a step against stock FSDP2 with the same model, units, threads and kind of optimizer.

python benchmarks/exact_price.py [--quick]: a JSON line for each world size. Both trainings live in the same ranks and
take turns, step by step, in changing order, so that what else the machine does falls on both. Stock FSDP2 accumulates
over its units as documented (one reduction a step, weights gathered once), clips with torch's norm, and steps
torch.optim.AdamW(foreach=True). CPU time is that of all threads of all ranks; the price is the median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.multiprocessing import start_processes

from tessera_api.recipes import RECIPES, RecipeName
from tessera_trainer.exact import ExactGradients
from tessera_trainer.initialise import initialise
from tessera_trainer.micro_batch import MicroBatch, pack
from tessera_trainer.model import Decoder
from tessera_trainer.optimiser import AdamW, AdamWSettings
from tessera_trainer.parallel import Accelerator, Precision, World, join_world, prepare
from tessera_trainer.shape import ModelShape
from tessera_trainer.units import UnitPlan

UNITS, LENGTH, VOCABULARY = 6, 256, 8192
GOAL = 1.1
WARM_UP = 2
LIMIT_S = 1800.0
Step = Callable[[list[MicroBatch]], None]


def exact_step(world: World, shape: ModelShape) -> Step:
    model = sharded(world, shape)
    gradients = ExactGradients[MicroBatch](model, UnitPlan(UNITS, world.size), world.group, world.device)
    optimiser = AdamW(as_module(model), AdamWSettings(), world.group)

    def step(batches: list[MicroBatch]) -> None:
        gradients.run(batches, [batch.token_count for batch in batches], lambda batch: as_module(model)(batch)[0])
        optimiser.step(1e-4)

    return step


def stock_step(world: World, shape: ModelShape) -> Step:
    model = sharded(world, shape)
    parameters = list(as_module(model).parameters())
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, foreach=True)

    def step(batches: list[MicroBatch]) -> None:
        tokens = torch.tensor(sum(batch.token_count for batch in batches))
        dist.all_reduce(tokens, group=world.group)
        losses = torch.zeros(())
        for place, batch in enumerate(batches):
            model.set_requires_gradient_sync(place == len(batches) - 1)
            model.set_reshard_after_backward(place == len(batches) - 1)
            loss = as_module(model)(batch)[0]
            (loss * (world.size / tokens.item())).backward()  # FSDP2 divides by the world size
            losses += loss.detach()
        dist.all_reduce(losses, group=world.group)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def sharded(world: World, shape: ModelShape) -> FSDPModule:
    decoder = Decoder(shape)
    model = prepare(decoder, world, Precision.FLOAT32, compiled=False, checkpointed=False)
    initialise(decoder, seed=7)
    return model


def as_module(model: FSDPModule) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def cpu_seconds(world: World, step: Step, batches: list[MicroBatch]) -> float:
    """Of one step, over all ranks."""
    dist.barrier(world.group)
    begin = time.process_time()
    step(batches)
    spent = torch.tensor(time.process_time() - begin, dtype=torch.float64)
    dist.all_reduce(spent, group=world.group)
    return spent.item()


def rank_main(rank: int, ranks: int, port: int, options: argparse.Namespace, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = join_world(Accelerator.CPU, local_rank=0, threads=1, limit_s=300.0)
    shape = ModelShape.of(RECIPES[RecipeName(options.recipe)], VOCABULARY, LENGTH)
    exact, stock = exact_step(world, shape), stock_step(world, shape)
    batches = [micro_batch(unit) for unit in UnitPlan(UNITS, ranks).of(rank)]
    pairs = []
    for number in range(WARM_UP + options.pairs):
        spent = {}
        for step in (exact, stock) if number % 2 else (stock, exact):
            spent[step] = cpu_seconds(world, step, batches)
        pairs.append((spent[exact], spent[stock]))
    if rank == 0:
        out.write_text(json.dumps(pairs[WARM_UP:]))
    dist.barrier()
    dist.destroy_process_group()


def micro_batch(unit: int) -> MicroBatch:
    tokens = torch.randint(0, VOCABULARY, (1, LENGTH + 1), generator=torch.Generator().manual_seed(unit))
    return pack(tokens, torch.zeros_like(tokens))


def measure(ranks: int, options: argparse.Namespace) -> list[tuple[float, float]]:
    """CPU seconds of (exact, stock) for each pair of steps."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        out = Path(folder) / "pairs.json"
        running = start_processes(rank_main, (ranks, port, options, out), nprocs=ranks, join=False, start_method="fork")  # type: ignore[no-untyped-call]
        deadline = time.monotonic() + LIMIT_S
        while not running.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                for process in running.processes:
                    process.kill()
                sys.exit(f"{ranks} ranks were not done after {LIMIT_S} s")
        return [(exact, stock) for exact, stock in json.loads(out.read_text())]


def figure(ranks: int, pairs: list[tuple[float, float]], options: argparse.Namespace) -> str:
    prices = sorted(exact / stock for exact, stock in pairs)
    value = statistics.median(prices)
    said = {
        "name": f"exact mode's price, {options.recipe}, {UNITS} units of {LENGTH} tokens, {ranks} ranks",
        "value": round(value, 4),
        "spread": [round(prices[0], 4), round(prices[-1], 4)],
        "unit": "x CPU time",
        "goal": f"<= {GOAL} x CPU time",
        "holds": value <= GOAL,
        "quick": options.quick,
        "exact_cpu_s": round(statistics.median(exact for exact, _ in pairs), 4),
        "stock_cpu_s": round(statistics.median(stock for _, stock in pairs), 4),
    }
    return json.dumps(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--recipe", choices=[name.value for name in RecipeName])
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--ranks", type=int, nargs="+")
    options = parser.parse_args()
    options.recipe = options.recipe or (RecipeName.LLAMA_5M if options.quick else RecipeName.LLAMA_20M).value
    options.pairs = options.pairs or (8 if options.quick else 20)
    for ranks in options.ranks or ([3] if options.quick else [1, 2, 3]):
        print(figure(ranks, measure(ranks, options), options), flush=True)


if __name__ == "__main__":
    main()
