"""A copy of a rank's shards in host memory, laid out as the object that it becomes.

The training thread waits for `take` alone; then the tensors may change. `seal` runs later, in another thread: it hashes
the copy and writes the header in front of it. The memory is allocated once and used for every save; it is a file
without a name, so that a store reads it as a file, without another copy.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from tessera_api.log import StoredObject
from tessera_trainer.part_file import PartRecord, Progress, TensorRecord, encode_header, tensor_record
from tessera_trainer.shards import Shard

_LARGEST = 2**62
_UNKNOWN = "0" * 64
_SPARE_BYTES = 4096
"""Room in the header for names and skip lists that are longer than the first save's."""
_HASH_BYTES = 8 << 20


class Snapshot:
    """Host memory for one part. Not for two saves at a time: who owns it sees to that."""

    def __init__(self, shards: Sequence[Shard], part: PartRecord) -> None:
        self._tensors = [tensor_record(shard) for shard in shards]
        self._widest = len(encode_header(self._at_its_widest(part))) - _varying(part)
        self._room = -(-(self._widest + _varying(part) + _SPARE_BYTES) // 64) * 64
        self._size = self._room + sum(tensor.bytes for tensor in self._tensors)
        self._file = os.memfd_create("tessera-snapshot")
        os.ftruncate(self._file, self._size)
        self._memory = mmap.mmap(self._file, self._size)
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._bytes.zero_()  # touched now, so that the first save does not wait for pages

    @property
    def path(self) -> Path:
        """Where this process reads the snapshot as a file."""
        return Path(f"/proc/self/fd/{self._file}")

    def fits(self, shards: Sequence[Shard], part: PartRecord) -> bool:
        """Whether this memory serves for these shards and this record."""
        return [tensor_record(shard) for shard in shards] == self._tensors and (
            self._widest + _varying(part) <= self._room
        )

    @torch.no_grad()
    def take(self, shards: Sequence[Shard]) -> None:
        """Copies the shards. They must be those that the memory was made for."""
        offset = self._room
        for shard, tensor in zip(shards, self._tensors, strict=True):
            target = self._bytes[offset : offset + tensor.bytes].view(tensor.torch_dtype)
            target.copy_(shard.local.reshape(-1))
            offset += tensor.bytes

    def seal(self, part: PartRecord) -> StoredObject:
        """Hashes the copy, writes the header, and says what object the memory now holds."""
        view = memoryview(self._memory)
        offset, tensors = self._room, []
        for tensor in self._tensors:
            blocks = [
                hashlib.sha256(view[offset + start : offset + start + length]).hexdigest()
                for start, length in _spans(tensor)
            ]
            tensors.append(tensor.model_copy(update={"sha256": tuple(blocks)}))
            offset += tensor.bytes
        header = encode_header(part.model_copy(update={"tensors": tuple(tensors)}), self._room)
        view[: self._room] = header
        whole = hashlib.sha256()
        for start in range(0, self._size, _HASH_BYTES):  # in pieces, so that other threads get their turn
            whole.update(view[start : start + _HASH_BYTES])
        return StoredObject(name=part.name, size=self._size, sha256=whole.hexdigest())

    def close(self) -> None:
        """Lets go of the memory; it is given back once nothing refers to it."""
        os.close(self._file)

    def _at_its_widest(self, part: PartRecord) -> PartRecord:
        """A record whose text is at least as long as that of `part` with any numbers and digests."""
        widest = ((_LARGEST, _LARGEST),) * len(part.progress.skips)
        numbers = Progress(step=_LARGEST, position=_LARGEST, updates=_LARGEST, skips=widest)
        tensors = tuple(
            tensor.model_copy(update={"sha256": (_UNKNOWN,) * len(tensor.blocks)}) for tensor in self._tensors
        )
        return part.model_copy(update={"progress": numbers, "tensors": tensors})


def _varying(part: PartRecord) -> int:
    """At most so many bytes of the header are the name and the skip list of `part`."""
    return len(part.name) + 2 * (len(str(_LARGEST)) + 2) * len(part.progress.skips)


def _spans(tensor: TensorRecord) -> list[tuple[int, int]]:
    """Start and length in bytes of each block, from the tensor's own start."""
    first = tensor.rows[0]
    return [((block.start - first) * tensor.row_bytes, len(block) * tensor.row_bytes) for block in tensor.blocks]
