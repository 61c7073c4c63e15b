"""Order: which sample is read at which position of a run, as a pure function: O(1) in time and memory.

    position -> (skip list) -> (mixture) -> dataset, index -> epoch, place in the epoch -> (permutation) -> sample

What must stay true: the result depends on seed, mixture, skip list and position alone, so that world size, node count,
batch split and restarts cannot change it; and no version of this code may give another result under one ORDER_VERSION.
The state of a run is one integer, how many positions it has consumed, and the skip list.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tessera_data.mixture import Counts, Interleave, integer_weights
from tessera_data.permutation import Domains, Words, derive, permute

ORDER_VERSION = "tessera-order-1"

BLOCK_SAMPLES = 256
"""Consecutive samples that stay together until the window: 1 MiB of 2,048-token samples, one read from a disk or
store."""

WINDOW_BLOCKS = 512
"""Blocks that are shuffled sample by sample: 131,072 samples, 512 MiB of 2,048-token samples."""

_WINDOW = BLOCK_SAMPLES * WINDOW_BLOCKS
_ROTATE, _BLOCKS, _WINDOWS = range(3)


@dataclass(frozen=True)
class Component:
    """One dataset of a mixture. Its name is part of the key: the order inside it does not change with its
    neighbours."""

    name: str
    samples: int
    weight: Fraction
    """Share of the run's samples, relative to the other weights; exact, from a decimal string."""


@dataclass(frozen=True)
class Located:
    """Where the samples of some positions are: three int64 arrays of one shape [positions]."""

    dataset: Counts
    """Place in the mixture."""
    epoch: Counts
    """How often that dataset was read whole before."""
    sample: Counts
    """Sample i of the dataset: its tokens [iT, iT + T]."""


@dataclass(frozen=True)
class SkipList:
    """Spans [start, stop) of raw positions that are never read; later positions move up. Sorted, disjoint, not
    touching.

    A span may be added as long as no position at or after its start has been consumed (a rewind goes back that far
    first): then every position that was consumed keeps its sample.
    """

    spans: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        flat = [edge for span in self.spans for edge in span]
        if any(first >= second for first, second in pairwise([-1, *flat])):
            raise ValueError(f"skip list {self.spans} is not sorted, disjoint and non-negative")

    def with_span(self, start: int, stop: int) -> SkipList:
        """The list with one more span, merged with those that it meets or overlaps."""
        if not 0 <= start < stop:
            raise ValueError(f"cannot skip positions [{start}, {stop})")
        first = bisect_left(self.spans, start, key=lambda span: span[1])
        after = bisect_right(self.spans, stop, key=lambda span: span[0])
        met = [(start, stop), *self.spans[first:after]]
        merged = (min(span[0] for span in met), max(span[1] for span in met))
        return SkipList((*self.spans[:first], merged, *self.spans[after:]))

    def raw(self, positions: Counts) -> Counts:
        """The raw position of each consumed position: the p-th (from 0) of those that no span holds."""
        if not self.spans:
            return positions
        skipped, starts = self._table
        return positions + skipped[np.searchsorted(starts, positions, side="right")]

    @cached_property
    def _table(self) -> tuple[Counts, Counts]:
        """(Skipped before each stretch, consumed position where the stretch after each span starts)."""
        edges = np.array(self.spans, np.int64)
        skipped = np.cumsum(edges[:, 1] - edges[:, 0])
        return np.concatenate([np.zeros(1, np.int64), skipped]), edges[:, 1] - skipped


@dataclass(frozen=True)
class Order:
    """The order of one run. ValueError where the mixture has no samples or its weights cannot be told apart."""

    seed: int
    components: tuple[Component, ...]
    skip: SkipList = SkipList()
    _interleave: Interleave = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for component in self.components:
            if component.samples < 1:
                raise ValueError(f"dataset {component.name} has {component.samples} samples of this length")
        names = [component.name for component in self.components]
        if len(set(names)) < len(names):
            raise ValueError(f"a dataset is twice in the mixture: {', '.join(names)}")
        weights = integer_weights([component.weight for component in self.components])
        object.__setattr__(self, "_interleave", Interleave(weights))

    def locate(self, positions: NDArray[np.int64] | Sequence[int] | Iterable[int]) -> Located:
        """The samples at consumed positions (each >= 0, any order, repeats allowed)."""
        wanted = np.asarray(positions, np.int64)
        if wanted.ndim != 1 or (wanted.size and int(wanted.min()) < 0):
            raise ValueError("positions are one row of integers >= 0")
        dataset, index = self._interleave.locate(self.skip.raw(wanted))
        epoch, sample = self._shuffles.locate(dataset, index)
        return Located(dataset, epoch, sample)

    @cached_property
    def _shuffles(self) -> Shuffles:
        return Shuffles(self.seed, self.components)


class Shuffles:
    """(dataset, index in its own sequence) -> (epoch, sample): for each dataset a bijection of its samples in each
    epoch.

    Places of an epoch are cut into windows, and slots of BLOCK_SAMPLES into blocks; a place is permuted inside its
    window to a slot, and the slot's block is permuted among all whole blocks. Samples are rotated by a key at last, so
    that blocks begin elsewhere in each epoch. The last window takes what is left: up to two windows, and the short
    block.
    """

    def __init__(self, seed: int, components: Sequence[Component]) -> None:
        samples = [component.samples for component in components]
        blocks = [count // BLOCK_SAMPLES for count in samples]
        windows = [max(1, count // _WINDOW) for count in samples]
        last = [count - (number - 1) * _WINDOW for count, number in zip(samples, windows, strict=True)]
        self._keys = np.array([_key(seed, component.name) for component in components], np.uint64)
        self._samples = np.array(samples, np.uint64)
        self._windows = np.array(windows, np.uint64)
        self._whole = np.array(blocks, np.uint64) * np.uint64(BLOCK_SAMPLES)
        self._block_domains = Domains.of([max(1, count) for count in blocks])
        self._window_domains = Domains.of([_WINDOW] * len(last) + last)

    def locate(self, dataset: Counts, index: Counts) -> tuple[Counts, Counts]:
        """int64 arrays of one shape; index >= 0."""
        samples = self._samples[dataset]
        indices = index.astype(np.uint64)
        epoch = indices // samples
        keys = derive(self._keys[dataset], epoch)
        slot = self._block(dataset, keys, self._slot(dataset, keys, indices - epoch * samples))
        slot += derive(keys, _ROTATE) % samples
        sample = np.minimum(slot, slot - samples)  # a slot below `samples` wraps to a huge number
        return epoch.astype(np.int64), sample.astype(np.int64)

    def _slot(self, dataset: Counts, keys: Words, place: Words) -> Words:
        """`place` permuted inside its window."""
        final = self._windows[dataset] - np.uint64(1)
        window = np.minimum(place // np.uint64(_WINDOW), final)
        start = window * np.uint64(_WINDOW)
        domains = self._window_domains[dataset + (window == final) * self._windows.size]
        slot = permute(place - start, derive(keys, window + np.uint64(_WINDOWS)), domains)
        slot += start
        return slot

    def _block(self, dataset: Counts, keys: Words, slot: Words) -> Words:
        """`slot` with its block permuted among all whole blocks; slots of the short block stay."""
        domains = self._block_domains[dataset]
        block = slot // np.uint64(BLOCK_SAMPLES)
        moved = permute(np.minimum(block, domains.n - np.uint64(1)), derive(keys, _BLOCKS), domains)
        return np.where(slot < self._whole[dataset], slot + (moved - block) * np.uint64(BLOCK_SAMPLES), slot)


def _key(seed: int, name: str) -> int:
    """Made of everything that tells one dataset's order from another's."""
    digest = blake2b(f"{ORDER_VERSION}\0{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
