"""From a copy of tensors in memory to a part of a checkpoint: its digests and its header. Owns no memory."""

from __future__ import annotations

import hashlib

from tessera_api.log import StoredObject
from tessera_keeper.part_file import PartRecord, TensorRecord, encode_header

_HASH_BYTES = 8 << 20
"""Hashed in pieces, so that other threads get their turn."""


def seal(memory: memoryview, room: int, part: PartRecord) -> StoredObject:
    """Hashes the tensors of `part`, which lie in `memory` from `room` on, writes the header in front of them, and says
    what object the memory now holds."""
    offset, tensors = room, []
    for tensor in part.tensors:
        blocks = [
            hashlib.sha256(memory[offset + start : offset + start + length]).hexdigest()
            for start, length in _spans(tensor)
        ]
        tensors.append(tensor.model_copy(update={"sha256": tuple(blocks)}))
        offset += tensor.bytes
    memory[:room] = encode_header(part.model_copy(update={"tensors": tuple(tensors)}), room)
    return StoredObject(name=part.name, size=offset, sha256=digest_of(memory[:offset]))


def digest_of(memory: memoryview) -> str:
    """SHA-256 of all of it, in hexadecimal."""
    whole = hashlib.sha256()
    for start in range(0, len(memory), _HASH_BYTES):
        whole.update(memory[start : start + _HASH_BYTES])
    return whole.hexdigest()


def _spans(tensor: TensorRecord) -> list[tuple[int, int]]:
    """Start and length in bytes of each block, from the tensor's own start."""
    first = tensor.rows[0]
    return [((block.start - first) * tensor.row_bytes, len(block) * tensor.row_bytes) for block in tensor.blocks]
