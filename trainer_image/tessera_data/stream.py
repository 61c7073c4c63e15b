"""Stream: the tokens of one split as one long row, cut into samples.

Sample i is its tokens [iT, iT + T]: T + 1 tokens, the last one being the next sample's first. Samples cross shards.
Every block is checked against its CRC-32 when this process first reads from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tessera_data.manifest import SplitInfo
from tessera_data.pieces import Pieces, read_ahead
from tessera_data.shards import BLOCK_BYTES, CorruptShard, ShardIndex, ShardInfo, check_block

Integers = NDArray[np.int64]


class Stream(Protocol):
    """One split as samples."""

    @property
    def sequence_length(self) -> int:
        """T."""

    @property
    def samples(self) -> int:
        """How many there are."""

    def read(self, samples: Integers) -> Batch:
        """The samples of these numbers (below `samples`). Raises CorruptShard and tessera_store's errors."""

    def expect(self, samples: Integers) -> None:
        """Says that these samples will be read soon."""

    def read_wrong_bit(self) -> None:
        """A drill: the first block comes with one. Raises CorruptShard."""


@dataclass(frozen=True)
class Batch:
    """Some samples, in the order asked for."""

    tokens: NDArray[np.int32]
    """[samples, T + 1]; of conversations with LEARNED, which makes them negative."""
    starts: NDArray[np.int32]
    """Columns (1 to T) at which a document starts, sample after sample. Column 0 starts a segment in any case: a
    document, or the later part of a cut one, which has no earlier context."""
    offsets: NDArray[np.int64]
    """[samples + 1]: the starts of sample j are starts[offsets[j]:offsets[j + 1]]."""

    def segments(self) -> NDArray[np.int32]:
        """[samples, T + 1]: the number of each token's segment in its sample, from 0."""
        marks = np.zeros(self.tokens.shape, np.int32)
        marks[np.repeat(np.arange(len(self.tokens)), np.diff(self.offsets)), self.starts] = 1
        return np.cumsum(marks, axis=1, dtype=np.int32)


class TokenStream:
    """Samples of `sequence_length` from one split. ValueError if it is too short for one."""

    def __init__(self, split: SplitInfo, dtype: str, pieces: Pieces, sequence_length: int) -> None:
        self.sequence_length = sequence_length
        self.samples = max(0, split.tokens - 1) // sequence_length
        self.unused_tokens = split.tokens - self.samples * sequence_length - (self.samples > 0)
        """At the end of the stream, too few for a sample: never read at this sequence length."""
        if self.samples < 1:
            raise ValueError(
                f"the dataset has {split.tokens} tokens, one sample needs {sequence_length + 1}: "
                "shorten the sequences or add documents"
            )
        self._dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
        self._pieces = pieces
        self._shards = [_Shard(info) for info in split.shards if info.tokens]
        lengths = np.array([shard.info.tokens for shard in self._shards], np.int64)
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        """[shards + 1]: the place in the stream of each shard's first token."""

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """The shards with tokens, in order."""
        return tuple(shard.info for shard in self._shards)

    def read(self, samples: Integers) -> Batch:
        """The samples of these numbers (below `samples`). Raises CorruptShard and tessera_store's errors."""
        begin = samples * self.sequence_length
        shard = np.searchsorted(self._first, begin, side="right") - 1
        inside = begin - self._first[shard]
        tokens = np.empty((samples.size, self.sequence_length + 1), np.int32)
        found = [
            self._copy(number, start, row)
            for number, start, row in zip(shard.tolist(), inside.tolist(), tokens, strict=True)
        ]
        offsets = np.zeros(samples.size + 1, np.int64)
        np.cumsum([starts.size for starts in found], out=offsets[1:])
        starts = np.concatenate(found) if found else np.zeros(0, np.int64)
        return Batch(tokens, starts.astype(np.int32), offsets)

    def document_ends(self) -> Integers:
        """[documents]: where each ends in the whole row. Every shard's index is read. Raises CorruptShard and
        tessera_store's errors."""
        ends = []
        for shard, first in zip(self._shards, self._first.tolist(), strict=False):
            if shard.index is None:
                shard.open(ShardIndex.decode(self._pieces.index(shard.info), shard.info))
            ends.append(shard.ends.astype(np.int64) + first)
        return np.concatenate(ends) if ends else np.zeros(0, np.int64)

    def expect_tokens(self, spans: Iterable[tuple[int, int]]) -> None:
        """Says that tokens [start, stop) will be read soon."""
        if self._pieces.piece_bytes is not None:
            self._pieces.expect(need for start, stop in spans for need in self._needed(start, stop))

    def span(self, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens [start, stop) of the whole row, whatever the samples are."""
        tokens = np.empty(stop - start, np.int32)
        if tokens.size:
            shard = int(np.searchsorted(self._first, start, side="right")) - 1
            self._copy(shard, start - int(self._first[shard]), tokens)
        return tokens

    def read_wrong_bit(self) -> None:
        """A drill: the first block comes with one. Raises CorruptShard."""
        shard = self._shards[0]
        block = bytearray(self._map(shard, 0)[:BLOCK_BYTES])
        block[0] ^= 1
        check_block(shard.info, 0, memoryview(block), shard.crc32[0])

    def expect(self, samples: Integers) -> None:
        """Says that these samples will be read soon."""
        begins = (samples * self.sequence_length).tolist()
        self.expect_tokens((begin, begin + self.sequence_length + 1) for begin in begins)

    def _needed(self, begin: int, end: int) -> Iterable[tuple[ShardInfo, int, int]]:
        number = int(np.searchsorted(self._first, begin, side="right")) - 1
        while number < len(self._shards) and int(self._first[number]) < end:
            info = self._shards[number].info
            start = max(begin - int(self._first[number]), 0)
            stop = min(end - int(self._first[number]), info.tokens)
            size = self._piece_tokens(info)
            for piece in range(start // size, (stop - 1) // size + 1):
                yield info, piece, self._piece_length(info, piece)
            number += 1

    def _copy(self, number: int, start: int, row: NDArray[np.int32]) -> Integers:
        """Fills `row` from token `start` of a shard on; returns the columns above 0 at which documents start."""
        shard = self._shards[number]
        stop = start + row.size
        if shard.whole is not None and stop <= shard.info.tokens:
            self._check(shard, shard.raw, 0, start, stop)
            row[:] = shard.whole[start:stop]
            return self._starts(shard, start, stop)
        return self._copy_parts(number, start, row)

    def _copy_parts(self, number: int, start: int, row: NDArray[np.int32]) -> Integers:
        """The same, across pieces and shards."""
        filled = 0
        found: list[Integers] = []
        while filled < row.size:
            shard = self._shards[number]
            size = self._piece_tokens(shard.info)
            piece = start // size
            stop = min(start + row.size - filled, (piece + 1) * size, shard.info.tokens)
            raw = self._sound(shard, piece, start, stop)
            view: NDArray[Any] = np.frombuffer(raw, self._dtype)
            row[filled : filled + stop - start] = view[start - piece * size : stop - piece * size]
            found.append(self._starts(shard, start, stop) + filled)
            if start == 0 and filled:
                found.append(np.full(1, filled, np.int64))
            filled += stop - start
            number, start = (number + 1, 0) if stop == shard.info.tokens else (number, stop)
        return np.unique(np.concatenate(found))

    def _sound(self, shard: _Shard, piece: int, start: int, stop: int) -> memoryview:
        """A piece in which the blocks of tokens [start, stop) are as they were written. A copy in a cache that is not
        so is fetched again, once."""
        for again in (True, False):
            try:
                raw = self._map(shard, piece)
                self._check(shard, raw, piece * self._piece_tokens(shard.info), start, stop)
            except CorruptShard:
                if not (again and self._pieces.discard(shard.info, piece)):
                    raise
            else:
                break
        return raw

    def _map(self, shard: _Shard, piece: int) -> memoryview:
        """A piece's bytes; the shard's index is open from then on."""
        if shard.index is None:
            shard.open(ShardIndex.decode(self._pieces.index(shard.info), shard.info))
        raw = self._pieces.map(shard.info, piece, self._piece_length(shard.info, piece))
        if self._pieces.piece_bytes is None:
            shard.raw, shard.whole = raw, np.frombuffer(raw, self._dtype)
        return raw

    def _check(self, shard: _Shard, raw: memoryview, base: int, start: int, stop: int) -> None:
        """Checks the blocks of tokens [start, stop) that were not yet checked; `raw` begins at token `base`."""
        width = self._dtype.itemsize
        for block in range(start * width // BLOCK_BYTES, (stop * width - 1) // BLOCK_BYTES + 1):
            if not shard.checked[block]:
                offset = block * BLOCK_BYTES - base * width
                check_block(shard.info, block, read_ahead(raw, offset, BLOCK_BYTES), shard.crc32[block])
                shard.checked[block] = 1

    @staticmethod
    def _starts(shard: _Shard, start: int, stop: int) -> Integers:
        """Columns, counted from token `start`, at which a document starts after it and before `stop`."""
        first, after = shard.ends.searchsorted(np.array((start + 1, stop), np.uint64)).tolist()
        return shard.ends[first:after].astype(np.int64) - start

    def _piece_tokens(self, info: ShardInfo) -> int:
        size = self._pieces.piece_bytes
        return info.tokens if size is None else size // self._dtype.itemsize

    def _piece_length(self, info: ShardInfo, piece: int) -> int:
        """Bytes."""
        size = self._piece_tokens(info)
        return (min((piece + 1) * size, info.tokens) - piece * size) * self._dtype.itemsize


class _Shard:
    """A shard and what this process has read of it."""

    __slots__ = ("checked", "crc32", "ends", "index", "info", "raw", "whole")

    def __init__(self, info: ShardInfo) -> None:
        self.info = info
        self.index: ShardIndex | None = None
        self.ends: NDArray[np.uint64]
        self.crc32: list[int]
        self.checked: bytearray
        self.raw: memoryview
        self.whole: NDArray[Any] | None = None
        """The bytes and the tokens, once mapped, where a piece is the whole shard."""

    def open(self, index: ShardIndex) -> None:
        self.index, self.ends = index, index.ends
        self.crc32 = index.crc32.tolist()
        self.checked = bytearray(len(self.crc32))
