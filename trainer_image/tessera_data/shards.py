"""Shards: the files that tokens lie in, and the index beside each.

A shard is two objects, named by the sha256 of their bytes:
- `tokens`: flat little-endian uint16 or uint32 token ids, whole documents, each ending with the end-of-text token; of
  conversations uint32, as their template ends them, with LEARNED in those that are learned;
- `index`: MAGIC, the number of documents and of blocks (uint64), the end of each document (uint64, in tokens of this
  shard, ascending, the last one is the shard's length), and the CRC-32 of each BLOCK_BYTES of the tokens (uint32),
  little-endian.

What must stay true: what is read here was checked against the index, and the index against the manifest. CRC-32 finds
what disks and networks do to bytes (4 GB/s here, against 0.7 of the next best in the standard library); it is no
defence against people, the content names are.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEARNED = np.uint32(1 << 31)
"""Of a token in a dataset of conversations: it is to be predicted; the others are only read."""
BLOCK_BYTES = 1 << 20
MAGIC = b"TESSIDX1"
_REMEDY = "restore it (or empty the cache, if it was fetched), or delete it and build the dataset again"
_HEADER_BYTES = len(MAGIC) + 16

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


class CorruptShard(Exception):
    """Stored bytes are not those that the build wrote; the message names the object, the block and both checksums."""


class ShardInfo(NamedTuple):
    """What the manifest says of a shard; in JSON a row, since a large dataset has thousands."""

    sha256: str
    """Of the tokens; also their name."""
    tokens: int
    documents: int
    index_sha256: str
    index_bytes: int
    index_crc32: int

    @property
    def tokens_name(self) -> str:
        return f"shards/{self.sha256}.tokens"

    @property
    def index_name(self) -> str:
        return f"shards/{self.index_sha256}.index"


@dataclass(frozen=True)
class ShardIndex:
    """A shard's index in memory."""

    ends: NDArray[np.uint64]
    """[documents] tokens of this shard up to and with each document's last."""
    crc32: NDArray[np.uint32]
    """[blocks]"""

    def encode(self) -> bytes:
        sizes = np.array([self.ends.size, self.crc32.size], "<u8")
        return b"".join((MAGIC, sizes.tobytes(), self.ends.astype("<u8").tobytes(), self.crc32.astype("<u4").tobytes()))

    @staticmethod
    def decode(data: bytes, info: ShardInfo) -> ShardIndex:
        """The index of `info`'s shard. Raises CorruptShard."""
        found = zlib.crc32(data)
        if len(data) != info.index_bytes or found != info.index_crc32:
            raise CorruptShard(
                f"{info.index_name} is corrupt: expected {info.index_bytes} bytes with CRC-32 {info.index_crc32:08x}, "
                f"got {len(data)} bytes with {found:08x}; {_REMEDY}"
            )
        documents, blocks = (int(size) for size in np.frombuffer(data, "<u8", 2, len(MAGIC)))
        ends = np.frombuffer(data, "<u8", documents, _HEADER_BYTES)
        return ShardIndex(ends, np.frombuffer(data, "<u4", blocks, _HEADER_BYTES + 8 * documents))


def check_block(info: ShardInfo, block: int, data: memoryview, expected: int) -> None:
    """Raises CorruptShard unless `data`, the block's bytes, have the CRC-32 `expected`."""
    found = zlib.crc32(data)
    if found != expected:
        raise CorruptShard(
            f"{info.tokens_name}, block {block} (bytes {block * BLOCK_BYTES} to {block * BLOCK_BYTES + len(data)}) is "
            f"corrupt: expected CRC-32 {expected:08x}, got {found:08x}; {_REMEDY}"
        )


def token_dtype(vocabulary_size: int) -> str:
    """The name of the smallest unsigned type that holds every token id."""
    return "uint16" if vocabulary_size <= 1 << 16 else "uint32"


class ShardWriter:
    """Writes one shard to a local file, in one pass: bytes, checksums and ends. Memory: 8 bytes a document, 4 a
    block."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._crc32: list[int] = []
        self._filled = 0
        self._ends: list[NDArray[np.uint64]] = []
        self.tokens = 0

    def write(self, tokens: Tokens, ends: NDArray[np.uint64]) -> None:
        """Whole documents: their tokens, and the end of each, counted from the first token given here."""
        self._ends.append(ends + np.uint64(self.tokens))
        self.tokens += tokens.size
        data = np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<")).data.cast("B")
        self._file.write(data)
        self._sha256.update(data)
        while data.nbytes:
            part = data[: BLOCK_BYTES - self._filled]
            before = self._crc32.pop() if self._filled else 0
            self._crc32.append(zlib.crc32(part, before))
            self._filled = (self._filled + part.nbytes) % BLOCK_BYTES
            data = data[part.nbytes :]

    def finish(self) -> tuple[ShardInfo, bytes]:
        """What the manifest says of the shard, and the bytes of its index."""
        ends = np.concatenate([np.zeros(0, np.uint64), *self._ends])
        index = ShardIndex(ends, np.array(self._crc32, np.uint32)).encode()
        sha256 = hashlib.sha256(index).hexdigest()
        return (
            ShardInfo(self._sha256.hexdigest(), self.tokens, ends.size, sha256, len(index), zlib.crc32(index)),
            index,
        )
