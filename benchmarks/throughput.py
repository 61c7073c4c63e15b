"""Throughput: training steps of our decoder against `transformers`' LlamaForCausalLM, tokens a second.

python benchmarks/throughput.py [--quick] [--threads N]: a JSON line a figure. Same weights, packed ids, document mask
(`transformers` makes its own from the positions), next-token targets, AdamW (foreach), threads. Steps of the two
alternate, so that a busy machine slows both; a figure is the median over rounds of what one round gave. Both losses are
compared before anything is timed. Compiled: each block by itself on both sides, reported without a goal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tessera_trainer import foreign_config, hugging_face
from tessera_trainer.initialise import initialise
from tessera_trainer.micro_batch import MicroBatch, pack
from tessera_trainer.model import Decoder
from tessera_trainer.shape import ModelShape

GOAL = 1.2
ROUNDS, QUICK_ROUNDS = 15, 3
DOCUMENTS_PER_ROW = 4
LAYOUTS = ((8, 256), (2, 1024))  # rows x length


@dataclass(frozen=True)
class Pair:
    """A training step of each side, on the same model and the same documents; a step gives its mean loss."""

    tokens: int
    ours: Callable[[], float]
    theirs: Callable[[], float]


@dataclass(frozen=True)
class Spent:
    """Seconds of a step, on the clock and on the cores. The second does not see what else the machine does."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for rows, length in LAYOUTS:
        for line in figures(rows, length, compiled=False, quick=options.quick):
            print(line, flush=True)
    if not options.quick:
        for line in figures(*LAYOUTS[-1], compiled=True, quick=False):
            print(line, flush=True)


def figures(rows: int, length: int, *, compiled: bool, quick: bool) -> Iterator[str]:
    """Our speed, theirs, and the ratio of the two in each round, by the clock and by CPU time."""
    pair = make_pair(rows, length, compiled=compiled)
    if not abs(pair.ours() - pair.theirs()) <= 1e-3:  # so that a loss that is no number is none
        raise ValueError("the two models do not have the same loss on the same documents")
    rounds = [(_spent(pair.ours), _spent(pair.theirs)) for _ in range(QUICK_ROUNDS if quick else ROUNDS)]
    what = f"{'compiled' if compiled else 'eager'}, {rows} rows of {length}, {DOCUMENTS_PER_ROW} documents a row"
    yield _figure(f"ours, {what}", [pair.tokens / ours.wall for ours, _ in rounds], "tokens/s", None, quick)
    yield _figure(f"transformers, {what}", [pair.tokens / their.wall for _, their in rounds], "tokens/s", None, quick)
    by_clock = [their.wall / ours.wall for ours, their in rounds]
    yield _figure(f"ours / transformers, {what}", by_clock, "x", None if compiled else GOAL, quick)
    by_work = [their.cpu / ours.cpu for ours, their in rounds]
    yield _figure(f"ours / transformers by CPU time, {what}", by_work, "x", None, quick)


def make_pair(rows: int, length: int, *, compiled: bool) -> Pair:
    """16M parameters, 384 wide, 8 layers, a vocabulary of 8,192."""
    shape = ModelShape(
        vocabulary=8192,
        sequence_length=length,
        hidden=384,
        layers=8,
        heads=6,
        kv_heads=2,
        ffn=1024,
        rope_theta=1e4,
        tied=True,
    )
    ours, batch = Decoder(shape).to_empty(device="cpu"), documents(shape, rows)
    initialise(ours, seed=1)
    theirs = their_model(shape, ours)
    if compiled:
        for block in (*ours.layers, *theirs.model.layers):
            block.compile(dynamic=False)
    return Pair(batch.token_count, _our_step(ours, batch), _their_step(theirs, batch, rows))


def documents(shape: ModelShape, rows: int) -> MicroBatch:
    """Rows cut into documents of random lengths."""
    generator = torch.Generator().manual_seed(1)
    size = (rows, shape.sequence_length + 1)
    borders = torch.randint(1, size[1], (rows, DOCUMENTS_PER_ROW - 1), generator=generator)
    segments = (torch.arange(size[1])[None, None] >= borders[:, :, None]).sum(1)
    return pack(torch.randint(0, shape.vocabulary, size, generator=generator), segments)


def their_model(shape: ModelShape, ours: Decoder) -> Any:
    """`transformers`' model with our weights."""
    settings = foreign_config.configuration(shape, torch.float32, 0)
    theirs = LlamaForCausalLM._from_config(LlamaConfig(**settings), attn_implementation="sdpa")
    weights = dict(ours.named_parameters())
    state: dict[str, Tensor] = {}
    for entry in hugging_face.entries(shape):
        parts = torch.split(weights[entry.ours].detach().clone(), [count for _, count in entry.theirs])
        state |= {name: part for (name, _), part in zip(entry.theirs, parts, strict=True)}
    theirs.load_state_dict(state, strict=False)
    return theirs.train()


def _our_step(model: Decoder, batch: MicroBatch) -> Callable[[], float]:
    optimizer = _optimizer(model)

    def step() -> float:
        loss, count = model(batch)
        mean = loss * (1 / count)
        mean.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(mean.detach())

    return step


def _their_step(model: Any, batch: MicroBatch, rows: int) -> Callable[[], float]:
    optimizer = _optimizer(model)
    ids, positions, targets = (part.view(rows, -1) for part in (batch.inputs, batch.positions, batch.targets))

    def step() -> float:
        made = model(input_ids=ids, position_ids=positions, labels=targets, shift_labels=targets, use_cache=False)
        made.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(made.loss.detach())

    return step


def _optimizer(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, foreach=True)


def _spent(step: Callable[[], float]) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def _figure(name: str, values: list[float], unit: str, goal: float | None, quick: bool) -> str:
    value = statistics.median(values)
    return json.dumps(
        {
            "name": name,
            "value": round(value, 3),
            "spread": [round(min(values), 3), round(max(values), 3)],
            "unit": unit,
            "goal": None if goal is None else f">= {goal}",
            "holds": None if goal is None else value >= goal,
            "quick": quick,
        }
    )


if __name__ == "__main__":
    main()
