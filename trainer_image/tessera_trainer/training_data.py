"""The data part: which samples this rank's units are, as micro-batches. Position in, units out; no other state.

Step s of the run consumes positions [s x globalBatch, (s + 1) x globalBatch) of the order; unit u of the step is the
u-th run of `unit` positions. Which rank computes a unit is the plan's matter and changes no bit of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tessera_api.resolved_run import ResolvedRun
from tessera_data.manifest import Split
from tessera_data.order import Component, Located, Order, SkipList
from tessera_data.packed_stream import PackedStream
from tessera_data.reader import Dataset, Reader
from tessera_data.stream import Batch
from tessera_run import Span
from tessera_run.run import DrillFault
from tessera_trainer.micro_batch import MicroBatch, pack

_LEARNED = -(1 << 31)
"""LEARNED in 32 bits with a sign."""


class DatasetMismatch(ValueError):
    """The mixture's datasets do not fit together, or are not those that the run was started with."""


@dataclass(frozen=True)
class Units:
    """The units of one rank in one step."""

    batches: list[MicroBatch]
    ids: list[list[tuple[int, int, int]]]
    """(dataset, epoch, sample) of every row, unit after unit: what the rank consumed."""
    seconds: float
    """How long training waited for them."""


class TrainingData:
    """See the module."""

    def __init__(self, resolved: ResolvedRun, skips: tuple[Span, ...], cache: Path) -> None:
        spec = resolved.run.spec
        self.datasets = {entry.dataset: _open(resolved, entry.dataset, cache) for entry in spec.data.mix}
        """In the order of the mix, each once."""
        self.tokenizer = next(iter(self.datasets.values()))
        """Any dataset: all have one tokenizer."""
        for name, dataset in self.datasets.items():
            if dataset.manifest.tokenizer != self.tokenizer.manifest.tokenizer:
                raise DatasetMismatch(f"{name} has another tokenizer than {spec.data.mix[0].dataset}")
            if dataset.manifest.of_chat != self.tokenizer.manifest.of_chat:
                raise DatasetMismatch(f"of {name} and {spec.data.mix[0].dataset} one alone holds conversations")
        streams = [dataset.stream(Split.TRAIN, spec.data.sequence_length) for dataset in self.datasets.values()]
        components = tuple(
            Component(entry.dataset, stream.samples, Fraction(entry.weight))
            for entry, stream in zip(spec.data.mix, streams, strict=True)
        )
        skip = SkipList()
        for span in skips:
            skip = skip.with_span(span.first, span.last)
        self._order = Order(spec.training.seed, components, skip)
        self._reader, self._streams = Reader(self._order, streams), streams
        self._unit, self._batch = spec.training.unit, spec.training.global_batch

    @property
    def vocabulary(self) -> int:
        """Tokens of the tokenizer."""
        return self.tokenizer.manifest.tokenizer.vocabulary_size

    def packing(self) -> Iterator[str]:
        """How the conversations of each dataset lie in samples, in words."""
        for name, stream in zip(self.datasets, self._streams, strict=True):
            if isinstance(stream, PackedStream):
                filled = 100 * (1 - stream.filled_share)
                yield (
                    f"{name}: {stream.samples} samples an epoch, {filled:.2f} % of them filled up;"
                    f" {stream.cut_tokens} tokens are cut off conversations that are longer than a sample"
                )

    @property
    def of_chat(self) -> bool:
        """Whether it is conversations, of which not every token is learned."""
        return self.tokenizer.manifest.of_chat

    def raw(self, position: int) -> int:
        """The place in the whole order, with what is left out counted, of a position that is yet to be consumed."""
        return int(self._order.skip.raw(np.array([position], np.int64))[0])

    def rows(self, position: int, unit: int) -> MicroBatch:
        """One unit of the step that begins at `position`, whoever it belongs to."""
        return self._read(position, range(unit, unit + 1))[0][0]

    def units(self, position: int, mine: range) -> Units:
        """The units `mine` of the step that begins at `position`; the next step's are asked for ahead of need."""
        began = time.perf_counter()
        batches, located = self._read(position, mine)
        self._reader.expect(self._positions(position + self._batch, mine))
        flat = list(zip(located.dataset.tolist(), located.epoch.tolist(), located.sample.tolist(), strict=True))
        ids = [flat[unit * self._unit : (unit + 1) * self._unit] for unit in range(len(mine))]
        return Units(batches, ids, time.perf_counter() - began)

    def hurt(self, how: str) -> None:
        """A drill: what reading may come to. Raises in a thread of its own, or as of a block with a wrong bit."""
        if how == "in a thread":
            with ThreadPoolExecutor(1) as reader:
                reader.submit(_fail).result()
        self._streams[0].read_wrong_bit()

    def _read(self, position: int, units: range) -> tuple[list[MicroBatch], Located]:
        read = self._reader.read(self._positions(position, units))
        rows = [slice(unit * self._unit, (unit + 1) * self._unit) for unit in range(len(units))]
        return list(micro_batches(read.batch, rows, of_chat=self.of_chat)), read.located

    def _positions(self, position: int, mine: range) -> NDArray[np.int64]:
        return np.arange(position + mine.start * self._unit, position + mine.stop * self._unit, dtype=np.int64)


def micro_batches(batch: Batch, rows: Iterable[slice], *, of_chat: bool) -> Iterator[MicroBatch]:
    """Rows of a batch, as micro-batches."""
    tokens, segments = torch.from_numpy(batch.tokens), torch.from_numpy(batch.segments())
    learned = tokens < 0 if of_chat else None
    tokens = tokens & ~_LEARNED if of_chat else tokens
    for span in rows:
        yield pack(tokens[span], segments[span], None if learned is None else learned[span])


def _fail() -> None:
    raise DrillFault("ordered by a drill, in a thread that reads data")


def _open(resolved: ResolvedRun, name: str, cache: Path) -> Dataset:
    wanted = resolved.datasets[name]
    dataset = Dataset.open(wanted.manifest, cache)
    if dataset.manifest.fingerprint != wanted.fingerprint:
        raise DatasetMismatch(
            f"dataset {name} at {wanted.manifest} has fingerprint {dataset.manifest.fingerprint[:12]}, the run was"
            f" started with {wanted.fingerprint[:12]}"
        )
    return dataset
