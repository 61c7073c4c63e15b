"""torch's types in the words of part files."""

from __future__ import annotations

import torch

from tessera_keeper.part_file import TensorRecord
from tessera_trainer.shards import Shard

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


def torch_type(tensor: TensorRecord) -> torch.dtype:
    """The type of a recorded tensor."""
    return _TYPES[tensor.dtype]


def tensor_record(shard: Shard) -> TensorRecord:
    """The record of a shard, without digests."""
    rows = (shard.rows.start, shard.rows.stop)
    dtype = _NAMES[shard.local.dtype]
    record = TensorRecord(name=shard.name, dtype=dtype, shape=shard.shape, rows=rows, block_rows=1)  # type: ignore[arg-type]  # pydantic checks it
    return record.in_blocks()
