"""A copy of a rank's shards in host memory, laid out as the object that it becomes.

The training thread waits for `Layout.copy` alone; then the tensors may change. Digests and header are the keeper's
(`tessera_keeper.sealing`).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch

from tessera_keeper.part_file import GUARD_BYTES, PartRecord, Progress, TensorRecord, encode_header
from tessera_trainer.shards import Shard
from tessera_trainer.tensor_types import tensor_record, torch_type

_LARGEST = 2**62
_UNKNOWN = "0" * 64
_SPARE_BYTES = 4096
"""Room in the header for names and skip lists that are longer than the first save's."""


class Layout:
    """Where the shards of one rank lie in memory, whatever the step."""

    def __init__(self, shards: Sequence[Shard], part: PartRecord) -> None:
        self.tensors: tuple[TensorRecord, ...] = tuple(tensor_record(shard) for shard in shards)
        self._widest = len(encode_header(self._at_its_widest(part))) - _varying(part)
        self.room = -(-(self._widest + _varying(part) + _SPARE_BYTES) // 64) * 64
        """Bytes before the first tensor."""
        self.size = self.room + sum(tensor.bytes for tensor in self.tensors)

    def fits(self, shards: Sequence[Shard], part: PartRecord) -> bool:
        """Whether it serves for these shards and this record."""
        return tuple(tensor_record(shard) for shard in shards) == self.tensors and (
            self._widest + _varying(part) <= self.room
        )

    @torch.no_grad()
    def copy(self, shards: Sequence[Shard], memory: mmap.mmap) -> None:
        """Copies the shards, which must be those that the layout was made for, to `memory` of `size` bytes. A GPU's
        copies are ordered together and waited for at the end."""
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        offset = self.room
        for shard, tensor in zip(shards, self.tensors, strict=True):
            target = whole[offset : offset + tensor.bytes].view(torch_type(tensor))
            target.copy_(shard.local.reshape(-1), non_blocking=True)
            offset += tensor.bytes
        for device in {shard.local.device for shard in shards if shard.local.is_cuda}:
            torch.cuda.synchronize(device)

    def _at_its_widest(self, part: PartRecord) -> PartRecord:
        """A record whose text is at least as long as that of `part` with any numbers and digests."""
        widest = ((_LARGEST, _LARGEST),) * len(part.progress.skips)
        guard = "0" * GUARD_BYTES if part.progress.guard else ""
        numbers = Progress(step=_LARGEST, position=_LARGEST, updates=_LARGEST, skips=widest, guard=guard)
        tensors = tuple(
            tensor.model_copy(update={"sha256": (_UNKNOWN,) * len(tensor.blocks)}) for tensor in self.tensors
        )
        return part.model_copy(update={"progress": numbers, "tensors": tensors})


def _varying(part: PartRecord) -> int:
    """At most so many bytes of the header are the name and the skip list of `part`."""
    return len(part.name) + 2 * (len(str(_LARGEST)) + 2) * len(part.progress.skips)
