"""The evaluation part: loss on the held-out documents of each dataset, shared out to all ranks, as bits per byte of
their text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from tessera_data.manifest import Split
from tessera_data.reader import Dataset
from tessera_trainer.norm import halving_sum
from tessera_trainer.parallel import World
from tessera_trainer.training_data import micro_batches

ROWS = 4
"""Samples per forward pass: one size everywhere, so that the result has the same bits at every world size."""


@dataclass(frozen=True)
class HeldOut:
    """What the model makes of documents that it was not trained on."""

    dataset: str
    """Whose documents; empty: all datasets'."""
    nats: float
    """Of all predicted tokens."""
    tokens: int
    """Tokens predicted."""
    all_tokens: int
    """Of the split (of conversations: those that are learned): a document's first token, and the few at the end that
    make no whole sample, are not predicted."""
    text_bytes: int
    """Of the text that these are."""

    @property
    def loss(self) -> float:
        """Nats per predicted token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """All tokens of the split are charged at the mean loss of those predicted."""
        return self.loss / math.log(2) * self.all_tokens / self.text_bytes


def together(found: Iterable[HeldOut]) -> HeldOut:
    """Of all datasets."""
    each = list(found)
    nats = float(halving_sum(torch.tensor([one.nats for one in each], dtype=torch.float64)))
    tokens, all_tokens, text_bytes = (
        sum(getattr(one, name) for one in each) for name in ("tokens", "all_tokens", "text_bytes")
    )
    return HeldOut("", nats, tokens, all_tokens, text_bytes)


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, datasets: Mapping[str, Dataset], sequence_length: int, world: World
) -> list[HeldOut]:
    """Every rank calls it, between steps. Datasets without a whole held-out sample are left out."""
    datasets = {name: dataset for name, dataset in datasets.items() if _has_samples(dataset, sequence_length)}
    streams = {name: dataset.stream(Split.HELD_OUT, sequence_length) for name, dataset in datasets.items()}
    groups = [(name, samples) for name, stream in streams.items() for samples in _groups(stream.samples)]
    if not groups:
        return []
    losses = torch.zeros(len(groups), dtype=torch.float64, device=world.device)
    counts = torch.zeros(len(groups), dtype=torch.int64, device=world.device)
    rounds = math.ceil(len(groups) / world.size)
    for turn in range(rounds):
        # Gathering weights is collective: a rank without work of its own repeats the last group, uncounted.
        place = turn * world.size + world.rank
        name, samples = groups[min(place, len(groups) - 1)]
        (rows,) = micro_batches(streams[name].read(samples), [slice(None)], of_chat=datasets[name].manifest.of_chat)
        loss, count = model(rows.to(world.device))
        if place < len(groups):
            losses[place], counts[place] = loss.double(), count
    dist.all_reduce(losses, group=world.group)
    dist.all_reduce(counts, group=world.group)
    found, begin = [], 0
    for name, dataset in datasets.items():
        mine = slice(begin, begin := begin + len(_groups(streams[name].samples)))
        split = dataset.manifest.splits[Split.HELD_OUT]
        nats, tokens = float(halving_sum(losses[mine])), int(counts[mine].sum())
        all_tokens = split.tokens if split.learned is None else split.learned
        found.append(HeldOut(name, nats, tokens, all_tokens, split.text_bytes))
    return found


def _has_samples(dataset: Dataset, sequence_length: int) -> bool:
    split = dataset.manifest.splits[Split.HELD_OUT]
    return split.documents > 0 and (dataset.manifest.of_chat or split.tokens > sequence_length)


def _groups(samples: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + ROWS, samples), dtype=np.int64) for start in range(0, samples, ROWS)]
