"""sha256 of a model's whole state, the same at every world size: the measure by which two trainings are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
import torch.distributed as dist

from tessera_trainer.shards import Shard, gather_rows


@torch.no_grad()
def state_digest(shards: Iterable[Shard], group: dist.ProcessGroup) -> str:
    """sha256 over name, shape and bytes of each tensor in order. All ranks call it, and get the same answer.

    One tensor is gathered at a time, so that memory stays bounded by the largest of them.
    """
    whole = hashlib.sha256()
    for shard in shards:
        tensor = gather_rows(shard, group).contiguous().cpu()
        whole.update(f"{shard.name} {shard.shape} {tensor.dtype}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def numbers_digest(numbers: Iterable[float]) -> str:
    """sha256 over the exact values of floats, for losses, norms and rates."""
    return hashlib.sha256("\n".join(number.hex() for number in numbers).encode()).hexdigest()
