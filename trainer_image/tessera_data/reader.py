"""Reader: the samples at the positions of a run. The only part of this room that a trainer needs while it trains.

Imports numpy and the store only. What must stay true: every rank that asks for the same positions gets the same bytes,
whatever was read before; nothing here calls a collective.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from tessera_data.manifest import MANIFEST, TOKENIZER, Manifest, Split
from tessera_data.order import Located, Order
from tessera_data.packed_stream import PackedStream
from tessera_data.pieces import FetchedPieces, LocalPieces, Pieces
from tessera_data.stream import Batch, Integers, Stream, TokenStream
from tessera_store import Store, open_store

RUN_POSITIONS = 1024
MOST_RUNS = 8


@dataclass(frozen=True)
class Dataset:
    """A published dataset."""

    manifest: Manifest
    store: Store
    pieces: Pieces

    @staticmethod
    def open(uri: str, cache: Path) -> Dataset:
        """The dataset whose manifest is at `uri` (…/manifest.json). Local shards are mapped where they lie, others are
        fetched into `cache`. Raises ValueError for an address or manifest that is none, and tessera_store's errors."""
        root, _, name = uri.rpartition("/")
        if name != MANIFEST:
            raise ValueError(f"{uri} is not the address of a dataset: it must end with /{MANIFEST}")
        store = open_store(root)
        manifest = Manifest.decode(store.get(MANIFEST), uri)
        local = urlsplit(root)
        pieces: Pieces = FetchedPieces(store, cache / manifest.fingerprint[:32])
        if local.scheme == "file":
            pieces = LocalPieces(Path(unquote(local.path)))
        return Dataset(manifest, store, pieces)

    def stream(self, split: Split, sequence_length: int) -> Stream:
        """One split as samples: cut out of its row, or of conversations packed. ValueError if it is too short for
        one."""
        if self.manifest.of_chat:
            return PackedStream(self.row(split), sequence_length, self.manifest.tokenizer.end_of_text)
        return TokenStream(self.manifest.splits[split], self.manifest.dtype, self.pieces, sequence_length)

    def row(self, split: Split) -> TokenStream:
        """One split as one row of tokens. ValueError if it has fewer than two."""
        return TokenStream(self.manifest.splits[split], self.manifest.dtype, self.pieces, 1)

    def tokenizer(self) -> bytes:
        """The tokenizer.json that the tokens were made with."""
        return self.store.get(TOKENIZER)


@dataclass(frozen=True)
class LocatedBatch:
    """Samples with where they come from."""

    batch: Batch
    located: Located


class Reader:
    """Samples by position. `streams` stand for the components of `order`, one for one."""

    def __init__(self, order: Order, streams: Sequence[Stream]) -> None:
        for component, stream in zip(order.components, streams, strict=True):
            if component.samples != stream.samples:
                raise ValueError(
                    f"the order counts {component.samples} samples of {component.name}, its stream has {stream.samples}"
                )
        if len({stream.sequence_length for stream in streams}) > 1:
            raise ValueError("the streams of a mixture differ in sequence length")
        self.order = order
        self._streams = tuple(streams)
        self._runs: OrderedDict[int, Located] = OrderedDict()

    def read(self, positions: Integers) -> LocatedBatch:
        """The samples at these positions, in their order. Raises CorruptShard and tessera_store's errors."""
        located = self._locate(positions)
        if len(self._streams) == 1:
            return LocatedBatch(self._streams[0].read(located.sample), located)
        parts = {}
        for number, stream in enumerate(self._streams):
            rows = np.flatnonzero(located.dataset == number)
            if rows.size:
                parts[number] = (rows, stream.read(located.sample[rows]))
        return LocatedBatch(_interleaved(positions.size, parts), located)

    def expect(self, positions: Integers) -> None:
        """Says that these positions will be read soon, so that they can be fetched meanwhile. Never blocks for long."""
        located = self._locate(positions)
        for number, stream in enumerate(self._streams):
            stream.expect(located.sample[located.dataset == number])

    def _locate(self, positions: Integers) -> Located:
        """The order of a small batch is cut out of a run of RUN_POSITIONS, of which the last few are kept: numpy costs
        as much for one position as for some hundreds."""
        if not positions.size:
            return self.order.locate(positions)
        first, last = int(positions.min()), int(positions.max())
        number = first // RUN_POSITIONS
        if first < 0 or number != last // RUN_POSITIONS:
            return self.order.locate(positions)
        run = self._runs.get(number)
        if run is None:
            start = number * RUN_POSITIONS
            run = self._runs[number] = self.order.locate(np.arange(start, start + RUN_POSITIONS))
            if len(self._runs) > MOST_RUNS:
                self._runs.popitem(last=False)
        rows = positions - number * RUN_POSITIONS
        return Located(run.dataset[rows], run.epoch[rows], run.sample[rows])


def _interleaved(size: int, parts: Mapping[int, tuple[Integers, Batch]]) -> Batch:
    """One batch of `size` samples from several, whose rows are given."""
    width = max((batch.tokens.shape[1] for _, batch in parts.values()), default=0)
    tokens = np.empty((size, width), np.int32)
    counts = np.zeros(size, np.int64)
    for rows, batch in parts.values():
        tokens[rows] = batch.tokens
        counts[rows] = np.diff(batch.offsets)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    starts = np.empty(int(offsets[-1]), np.int32)
    for rows, batch in parts.values():
        lengths = np.diff(batch.offsets)
        shift = np.repeat(offsets[rows] - batch.offsets[:-1], lengths)
        starts[np.arange(batch.starts.size) + shift] = batch.starts
    return Batch(tokens, starts, offsets)
