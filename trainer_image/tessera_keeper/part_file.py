"""One rank's part of a checkpoint as bytes: a safetensors file whose header tells how to check every piece of it.

    8 bytes   length L of the header, little-endian
    L bytes   JSON, padded with blanks; its metadata holds a `PartRecord` with the sha256 of each block of rows
    32 bytes  sha256 of all before (as safetensors see it: the tensor `header_sha256`)
    ...       the tensors one after the other, row after row, in the order of the record

What must stay true: offsets follow from the record alone, and its text has the same length whatever the digests are,
so that a buffer can be laid out before its content is known. A reader of some rows checks the header by its seal, the
blocks by the header; a reader of all rows checks the whole by the digest in the commit entry. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tessera_api.record import Count, Record, Sha256

BLOCK_BYTES = 4 << 20
"""About how many bytes one digest covers: the least that a reader of a few rows must read."""
GUARD_BYTES = 32 << 10
LENGTH_BYTES = 8
SEAL_BYTES = 32
_SEAL = "header_sha256"
_RECORD = "tessera"
_ALIGNMENT = 64
_ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}


class CheckpointDamaged(Exception):
    """An object of a committed checkpoint does not hold what was written. Names the object, expected and got."""

    def __init__(self, name: str, what: str, expected: object, got: object) -> None:
        super().__init__(f"checkpoint object {name} is damaged: {what} is {got}, expected {expected}")


class Progress(Record):
    """Where training stands after a step: all of its state that is no tensor."""

    step: Count
    position: Count
    """Data position: how many samples of the order have been consumed."""
    updates: Count
    """How many optimizer updates were applied: fewer than `step` where one was skipped."""
    skips: tuple[tuple[Count, Count], ...] = ()
    """Positions [first, last) of the data order that are left out."""
    guard: Annotated[str, Field(max_length=GUARD_BYTES)] = ""
    """What the loss guard knows, in its own words."""


class TensorRecord(Record):
    """One tensor's rows in this part."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    dtype: Literal["F32", "BF16", "F16", "F64"]
    shape: tuple[Count, ...]
    """Of the whole tensor."""
    rows: tuple[Count, Count]
    """[first, last) of them are here."""
    block_rows: Annotated[int, Field(ge=1)]
    sha256: tuple[Sha256, ...] = ()
    """Of each block of `block_rows` rows; the last may be shorter."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * _ITEM_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """Bytes of all rows that are here."""
        return (self.rows[1] - self.rows[0]) * self.row_bytes

    def in_blocks(self) -> TensorRecord:
        """The same, in blocks of about `BLOCK_BYTES`."""
        return self.model_copy(update={"block_rows": max(1, BLOCK_BYTES // max(1, self.row_bytes))})

    @property
    def blocks(self) -> list[range]:
        """The rows of each block, counted in the whole tensor."""
        first, last = self.rows
        return [range(row, min(row + self.block_rows, last)) for row in range(first, last, self.block_rows)]


class PartRecord(Record):
    """What a part says of itself."""

    format: Literal[1] = 1
    name: str
    """The object's full name: another object's bytes under this name are noticed."""
    rank: Count
    ranks: Annotated[int, Field(ge=1)]
    progress: Progress
    tensors: tuple[TensorRecord, ...]

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)

    def offsets(self) -> Iterator[tuple[TensorRecord, int]]:
        """Each tensor with its place after the seal."""
        offset = 0
        for tensor in self.tensors:
            yield tensor, offset
            offset += tensor.bytes


class _Entry(Record):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


_HEADER: TypeAdapter[dict[str, _Entry | dict[str, str]]] = TypeAdapter(dict[str, _Entry | dict[str, str]])


def encode_header(record: PartRecord, room: int = 0) -> bytes:
    """The bytes before the tensors, seal included. They are `room` bytes long, or as long as needed where that is 0."""
    header: dict[str, object] = {"__metadata__": {_RECORD: record.canonical().decode()}}
    header[_SEAL] = {"dtype": "U8", "shape": [SEAL_BYTES], "data_offsets": [0, SEAL_BYTES]}
    for tensor, offset in record.offsets():
        header[tensor.name] = _entry(tensor, offset).model_dump(mode="json")
    text = json.dumps(header, separators=(",", ":")).encode()
    around = LENGTH_BYTES + SEAL_BYTES
    length = room - around if room else -(-(len(text) + around) // _ALIGNMENT) * _ALIGNMENT - around
    if len(text) > length:
        raise ValueError(f"the header of {record.name} takes {len(text)} bytes and has room for {length}")
    sealed = struct.pack("<Q", length) + text.ljust(length)
    return sealed + hashlib.sha256(sealed).digest()


def header_length(start: bytes) -> int:
    """How many bytes come before the tensors, from the object's first 8."""
    length: int = struct.unpack("<Q", start[:LENGTH_BYTES])[0]
    return LENGTH_BYTES + length + SEAL_BYTES


def decode_header(data: bytes, name: str) -> PartRecord:
    """The record in `data`, the bytes before the tensors of object `name`. Raises CheckpointDamaged."""
    sealed, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
    digest = hashlib.sha256(sealed).digest()
    if digest != seal:
        raise CheckpointDamaged(name, "sha256 of its header", seal.hex(), digest.hex())
    try:
        header = _HEADER.validate_json(sealed[LENGTH_BYTES:])
        metadata = header.pop("__metadata__")
        record = PartRecord.model_validate_json(metadata[_RECORD] if isinstance(metadata, dict) else "")
    except (ValidationError, KeyError) as error:
        raise CheckpointDamaged(name, "its header", "a part record of format 1", error) from error
    if record.name != name:
        raise CheckpointDamaged(name, "the name inside", name, record.name)
    expected = {tensor.name: _entry(tensor, offset) for tensor, offset in record.offsets()}
    header.pop(_SEAL, None)
    if header != expected:
        raise CheckpointDamaged(name, "its table of tensors", f"{len(expected)} as recorded", f"{len(header)} others")
    return record


def _entry(tensor: TensorRecord, offset: int) -> _Entry:
    start = SEAL_BYTES + offset
    rows = tensor.rows[1] - tensor.rows[0]
    return _Entry(dtype=tensor.dtype, shape=(rows, *tensor.shape[1:]), data_offsets=(start, start + tensor.bytes))
