"""Weights out of files that others have written: rows of tensors, under our names. Reads safetensors only.

What must stay true: a file that is not the one that was pinned is not read; no more is in memory than one piece.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tessera_api.resolved_run import ForeignFile, ForeignWeights
from tessera_store import Store
from tessera_trainer.foreign_config import ForeignModel
from tessera_trainer.hugging_face import Entry, entries
from tessera_trainer.shape import ModelShape
from tessera_trainer.shards import Shard

_LENGTH_BYTES = 8
_PIECE_BYTES = 64 << 20
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor lies."""

    file: str
    begin: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Of one row; of a vector an element."""
        count = 1
        for size in self.shape[1:]:
            count *= size
        return count * self.dtype.itemsize


class ForeignFiles:
    """See the module. Raises ForeignModel where a file is not as it was pinned."""

    def __init__(self, first: ForeignWeights, store: Store) -> None:
        self._store = store
        self._tensors = {name: tensor for file in first.files for name, tensor in _listed(file, store)}

    def fill(self, shape: ModelShape, shards: Iterable[Shard], prefix: str) -> None:
        """This rank's rows of every weight; a shard is called `prefix` and our name. Raises ForeignModel where the
        files have no such tensor, or one of another size, or one that the model does not know."""
        known = {entry.ours: entry for entry in entries(shape)}
        self._judge(known.values(), shape)
        for shard in shards:
            self._fill(shard, known[shard.name.removeprefix(prefix)])

    def _judge(self, known: Iterable[Entry], shape: ModelShape) -> None:
        wanted = {name for entry in known for name, _ in entry.theirs}
        unused = {"lm_head.weight"} if shape.tied else set()  # some write a tied head twice
        if missing := sorted(wanted - set(self._tensors)):
            raise ForeignModel(f"{len(missing)} tensors are missing, {missing[0]} the first of them")
        if more := sorted(set(self._tensors) - wanted - unused):
            raise ForeignModel(f"nobody here knows {len(more)} of the tensors, {more[0]} the first of them")

    def _fill(self, shard: Shard, entry: Entry) -> None:
        first = 0
        for name, count in entry.theirs:
            tensor = self._tensors[name]
            if tensor.shape != (count, *shard.shape[1:]):
                raise ForeignModel(f"{name} has shape {tensor.shape}, and should have {(count, *shard.shape[1:])}")
            begin, end = max(first, shard.rows.start), min(first + count, shard.rows.stop)
            place = begin
            for piece in self._rows(tensor, range(begin - first, end - first)):
                target = shard.local[place - shard.rows.start :][: piece.shape[0]]
                target.copy_(piece.to(target.dtype) + entry.more if entry.more else piece)
                place += piece.shape[0]
            first += count

    def _rows(self, tensor: _Tensor, rows: range) -> Iterator[Tensor]:
        """In pieces."""
        each = max(1, _PIECE_BYTES // tensor.row_bytes)
        for start in range(rows.start, rows.stop, each):
            count = min(each, rows.stop - start)
            length = count * tensor.row_bytes
            data = self._store.get_range(tensor.file, tensor.begin + start * tensor.row_bytes, length)
            if len(data) != length:
                raise ForeignModel(f"{tensor.file} has ended before its tensors have")
            yield torch.frombuffer(bytearray(data), dtype=tensor.dtype).view(count, *tensor.shape[1:])


def _listed(file: ForeignFile, store: Store) -> Iterator[tuple[str, _Tensor]]:
    """What lies in a file."""
    length = int.from_bytes(store.get_range(file.name, 0, _LENGTH_BYTES), "little")
    header = store.get_range(file.name, _LENGTH_BYTES, min(length, file.size))
    if store.size(file.name) != file.size or hashlib.sha256(header).hexdigest() != file.header_sha256:
        raise ForeignModel(f"{file.name} is not the file any more that the run began with")
    said: dict[str, Any] = json.loads(header)
    for name, tensor in said.items():
        if name == "__metadata__":
            continue
        dtype = _TYPES.get(tensor["dtype"])
        if dtype is None:
            raise ForeignModel(f"{name} has numbers of type {tensor['dtype']}; they must be {', '.join(_TYPES)}")
        begin = _LENGTH_BYTES + length + int(tensor["data_offsets"][0])
        yield name, _Tensor(file.name, begin, dtype, tuple(tensor["shape"]))
