"""Reading a checkpoint at any world size: each rank reads the rows it holds, from the parts that hold them.

The list of objects comes from the log's commit entry; nothing is listed or gathered. Which part holds which rows
follows from the number of parts (`shards.rows_of`). What must stay true: no byte gets into a tensor that no sha256
vouches for. A part that this rank reads whole is checked against the commit entry, else each block against the part's
sealed header. The check of a whole part ends after its rows were copied: after an error the tensors hold rubbish.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from tessera_api.log import StoredObject
from tessera_keeper.part_file import (
    CheckpointDamaged,
    PartRecord,
    Progress,
    TensorRecord,
    decode_header,
    header_length,
)
from tessera_trainer.shards import Shard, ranks_with
from tessera_trainer.tensor_types import torch_type

_PART = re.compile(r"rank-(\d{5})-of-(\d{5})\.safetensors$")
_FIRST_READ_BYTES = 1 << 16
_READ_BYTES = 32 << 20
_READERS = 4


class Readable(Protocol):
    """What is needed of a `tessera_store.Store`, or of the memory of nodes."""

    def size(self, name: str) -> int:
        """An object's length in bytes."""

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length), fewer where the object ends before."""


class Sealed(Protocol):
    """An object of a checkpoint, and what vouches for it: a `StoredObject`, or what `tessera_run` tells of it."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class _Block(NamedTuple):
    """Rows that one digest covers, where they lie in the object, and the shard that wants some of them."""

    start: int
    length: int
    rows: range
    sha256: str
    tensor: TensorRecord
    target: Shard


@dataclass(frozen=True, slots=True)
class _Part:
    stored: Sealed
    header: bytes
    record: PartRecord


def restore(objects: Sequence[Sealed], store: Readable, targets: Sequence[Shard]) -> Progress:
    """Fills `targets` from the checkpoint and says where it stands. Each rank calls it for its own shards. `objects`
    are the parts in order of rank; those that are not needed are not looked at.

    Raises CheckpointDamaged (an object is not what was committed), ValueError (the checkpoint is of another model, or
    its list of parts is not complete) and the store's errors. The caller gathers the weights anew afterwards.
    """
    count = len(objects)
    if count == 0:
        raise ValueError("a checkpoint needs the parts of all its ranks; there are none")
    wanted: dict[int, list[Shard]] = {}
    for target in targets:
        for rank in ranks_with(target.rows, target.shape[0], count):
            wanted.setdefault(rank, []).append(target)
    wanted = wanted or {0: []}
    parts = {rank: _part_of(objects, rank) for rank in wanted}
    with ThreadPoolExecutor(_READERS) as readers:
        progress = list(readers.map(lambda rank: _read_part(parts[rank], store, wanted[rank]), wanted))
    if any(other != progress[0] for other in progress):
        names = ", ".join(part.name for part in parts.values())
        raise ValueError(f"the parts {names[:1000]} come from different steps: {progress}")
    return progress[0]


def verify(objects: Iterable[StoredObject], store: Readable) -> None:
    """Reads every object and compares it with its size and digest in the commit entry. Raises CheckpointDamaged."""
    for stored in objects:
        digest = hashlib.sha256()
        _check_size(stored, store)
        for start in range(0, stored.size, _READ_BYTES):
            digest.update(_read(stored, store, start, min(_READ_BYTES, stored.size - start)))
        _check_whole(stored, digest.hexdigest())


def rank_of(name: str) -> int:
    """The rank that wrote a part. Raises ValueError where no part is called so."""
    match = _PART.search(name)
    if match is None:
        raise ValueError(f"{name} is no part of a checkpoint")
    return int(match[1])


def _part_of(objects: Sequence[Sealed], rank: int) -> Sealed:
    """The part of a rank. Raises ValueError unless it is what its name says."""
    match = _PART.search(objects[rank].name)
    if match is None or (int(match[1]), int(match[2])) != (rank, len(objects)):
        raise ValueError(
            f"a checkpoint needs the parts of all its ranks; number {rank} of {len(objects)} is {objects[rank].name}"
        )
    return objects[rank]


def _read_part(stored: Sealed, store: Readable, targets: Sequence[Shard]) -> Progress:
    part = _open(stored, store)
    tensors = {tensor.name: (tensor, offset) for tensor, offset in part.record.offsets()}
    blocks: list[_Block] = []
    for target in targets:
        if target.name not in tensors:
            raise ValueError(f"{stored.name} has no tensor {target.name}: it is a checkpoint of another model")
        blocks += _blocks(part, *tensors[target.name], target)
    blocks.sort(key=lambda block: block.start)
    whole = sum(block.length for block in blocks) == part.record.data_bytes
    digest = hashlib.sha256(part.header)
    for run in _runs(blocks):
        start = run[0].start
        data = bytearray(_read(stored, store, start, run[-1].start + run[-1].length - start))
        if whole:
            digest.update(data)
        for block in run:
            _take(stored, block, memoryview(data)[block.start - start :][: block.length], checked=whole)
    if whole:
        _check_whole(stored, digest.hexdigest())
    return part.record.progress


def _open(stored: Sealed, store: Readable) -> _Part:
    """The sealed header of a part, after a look at its size."""
    _check_size(stored, store)
    start = store.get_range(stored.name, 0, min(_FIRST_READ_BYTES, stored.size))
    length = header_length(start) if len(start) >= 8 else stored.size + 1
    if length > stored.size:
        raise CheckpointDamaged(stored.name, "the length of its header", f"at most {stored.size}", length)
    header = start[:length]
    if len(start) < length:
        header += _read(stored, store, len(start), length - len(start))
    part = _Part(stored, header, decode_header(header, stored.name))
    if length + part.record.data_bytes != stored.size:
        raise CheckpointDamaged(stored.name, "its size by its header", stored.size, length + part.record.data_bytes)
    return part


def _blocks(part: _Part, tensor: TensorRecord, offset: int, target: Shard) -> Iterator[_Block]:
    """The blocks of `tensor` that hold rows of `target`."""
    if tensor.shape != target.shape or torch_type(tensor) != target.local.dtype:
        raise ValueError(
            f"{target.name} is {list(tensor.shape)} {tensor.dtype} in {part.stored.name}, "
            f"and {list(target.shape)} {target.local.dtype} in the model"
        )
    start = len(part.header) + offset
    for rows, sha256 in zip(tensor.blocks, tensor.sha256, strict=True):
        length = len(rows) * tensor.row_bytes
        if _overlap(rows, target.rows):
            yield _Block(start, length, rows, sha256, tensor, target)
        start += length


def _runs(blocks: Sequence[_Block]) -> Iterator[list[_Block]]:
    """Blocks that lie side by side, together, up to what is read at once."""
    run: list[_Block] = []
    for block in blocks:
        if run and (
            run[-1].start + run[-1].length != block.start or block.start + block.length - run[0].start > _READ_BYTES
        ):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


@torch.no_grad()
def _take(stored: Sealed, block: _Block, data: memoryview, *, checked: bool) -> None:
    """Copies the wanted rows of a block, after its digest where nothing else checks it."""
    if not checked:
        digest = hashlib.sha256(data).hexdigest()
        if digest != block.sha256:
            what = f"sha256 of rows {block.rows.start} to {block.rows.stop} of {block.tensor.name}"
            raise CheckpointDamaged(stored.name, what, block.sha256, digest)
    rows = _overlap(block.rows, block.target.rows)
    source = torch.frombuffer(data, dtype=torch_type(block.tensor)).view(len(block.rows), *block.tensor.shape[1:])
    mine = block.target.local[rows.start - block.target.rows.start : rows.stop - block.target.rows.start]
    mine.copy_(source[rows.start - block.rows.start : rows.stop - block.rows.start])


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _read(stored: Sealed, store: Readable, start: int, length: int) -> bytes:
    data = store.get_range(stored.name, start, length)
    if len(data) != length:
        raise CheckpointDamaged(stored.name, f"the number of bytes from {start}", length, len(data))
    return data


def _check_size(stored: Sealed, store: Readable) -> None:
    size = store.size(stored.name)
    if size != stored.size:
        raise CheckpointDamaged(stored.name, "its size in bytes", stored.size, size)


def _check_whole(stored: Sealed, digest: str) -> None:
    if digest != stored.sha256:
        raise CheckpointDamaged(stored.name, "its sha256", stored.sha256, digest)
