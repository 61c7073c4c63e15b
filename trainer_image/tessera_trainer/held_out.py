"""The evaluation part: loss on the held-out documents, shared out to all ranks, as bits per byte of their text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from tessera_data.manifest import Split
from tessera_data.reader import Dataset
from tessera_trainer.micro_batch import pack
from tessera_trainer.norm import halving_sum
from tessera_trainer.parallel import World

ROWS = 4
"""Samples per forward pass: one size everywhere, so that the result has the same bits at every world size."""


@dataclass(frozen=True)
class HeldOut:
    """What the model makes of documents that it was not trained on."""

    loss: float
    """Nats per predicted token."""
    bits_per_byte: float
    """All tokens of the split are charged at the mean loss of those predicted: a document's first token, and the few
    at the end that make no whole sample, are not predicted."""
    tokens: int
    """Tokens predicted."""


@torch.no_grad()
def evaluate(model: torch.nn.Module, datasets: list[Dataset], sequence_length: int, world: World) -> HeldOut | None:
    """Every rank calls it. Datasets without a whole held-out sample count for nothing; with none at all: None."""
    datasets = [dataset for dataset in datasets if _groups(dataset, sequence_length)]
    groups = [group for dataset in datasets for group in _groups(dataset, sequence_length)]
    if not groups:
        return None
    losses = torch.zeros(len(groups), dtype=torch.float64, device=world.device)
    counts = torch.zeros(len(groups), dtype=torch.int64, device=world.device)
    rounds = math.ceil(len(groups) / world.size)
    for turn in range(rounds):
        # Gathering weights is collective: a rank without work of its own repeats the last group, uncounted.
        place = turn * world.size + world.rank
        dataset, samples = groups[min(place, len(groups) - 1)]
        batch = dataset.stream(Split.HELD_OUT, sequence_length).read(samples)
        packed = pack(torch.from_numpy(batch.tokens), torch.from_numpy(batch.segments())).to(world.device)
        loss, count = model(packed)
        if place < len(groups):
            losses[place], counts[place] = loss.double(), count
    dist.all_reduce(losses, group=world.group)
    dist.all_reduce(counts, group=world.group)
    tokens = int(counts.sum())
    loss_per_token = float(halving_sum(losses)) / tokens
    text_bytes = sum(dataset.manifest.splits[Split.HELD_OUT].text_bytes for dataset in datasets)
    all_tokens = sum(dataset.manifest.splits[Split.HELD_OUT].tokens for dataset in datasets)
    return HeldOut(loss_per_token, loss_per_token / math.log(2) * all_tokens / text_bytes, tokens)


def _groups(dataset: Dataset, sequence_length: int) -> list[tuple[Dataset, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    if dataset.manifest.splits[Split.HELD_OUT].tokens <= sequence_length:
        return []
    samples = dataset.stream(Split.HELD_OUT, sequence_length).samples
    starts = range(0, samples, ROWS)
    return [(dataset, np.arange(start, min(start + ROWS, samples), dtype=np.int64)) for start in starts]
