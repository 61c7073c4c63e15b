"""Shards: which rows of a tensor a rank holds, and the named shards that make up a model's state.

FSDP2 cuts dimension 0 into chunks of ceil(rows / W); the last ranks may hold fewer rows or none. Everything that is
stored, summed or hashed by row follows from this arithmetic, so that no plan is ever gathered from the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def rows_of(rows: int, ranks: int, rank: int) -> range:
    """The rows that `rank` of `ranks` holds of a tensor with `rows` rows."""
    chunk = -(-rows // ranks)
    return range(min(rows, rank * chunk), min(rows, (rank + 1) * chunk))


def ranks_with(wanted: range, rows: int, ranks: int) -> range:
    """The ranks of `ranks` that hold some of these rows, of a tensor with `rows` rows."""
    chunk = -(-rows // ranks)
    return range(wanted.start // chunk, -(-wanted.stop // chunk)) if wanted else range(0)


@dataclass(frozen=True, slots=True)
class Shard:
    """This rank's rows of one tensor. `local` is contiguous and shares memory with what it describes."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    local: Tensor
    rows: range

    def __post_init__(self) -> None:
        expected = (len(self.rows), *self.shape[1:])
        if tuple(self.local.shape) != expected:
            raise ValueError(f"{self.name}: rows {self.rows} of {self.shape} have shape {tuple(self.local.shape)}")


def shard_of(name: str, parameter: Tensor, local: Tensor) -> Shard:
    """The shard that `local` is, laid out as `parameter` (sharded by FSDP2 on dimension 0, or whole)."""
    shape = tuple(parameter.shape) or (1,)
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        rows = rows_of(shape[0], mesh.size(), mesh.get_local_rank())
    else:
        rows = range(shape[0])
    return Shard(name, shape, local.detach().view(len(rows), *shape[1:]), rows)


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_rows(shard: Shard, group: dist.ProcessGroup) -> Tensor:
    """The whole tensor, on every rank of the group over which it is sharded."""
    ranks = group.size()
    if ranks == 1:
        return shard.local
    chunk = -(-shard.shape[0] // ranks)
    padded = shard.local.new_zeros((chunk, *shard.shape[1:]))
    padded[: len(shard.rows)] = shard.local
    whole = shard.local.new_empty((ranks * chunk, *shard.shape[1:]))
    dist.all_gather_into_tensor(whole, padded, group=group)
    return whole[: shard.shape[0]]


def gather_columns(local: Tensor, lengths: list[list[int]], group: dist.ProcessGroup) -> Tensor:
    """One vector from the ranks' vectors of many pieces, ordered by piece, then by rank.

    `lengths[r][i]` is how many numbers rank r holds of piece i; `local` holds this rank's, piece after piece.
    """
    ranks = group.size()
    if ranks == 1:
        return local
    longest = max(map(sum, lengths))
    padded = local.new_zeros(longest)
    padded[: local.numel()] = local
    gathered = local.new_empty(ranks * longest)
    dist.all_gather_into_tensor(gathered, padded, group=group)
    rows = gathered.view(ranks, longest)
    pieces = [torch.split(rows[rank, : sum(lengths[rank])], lengths[rank]) for rank in range(ranks)]
    return torch.cat([pieces[rank][piece] for piece in range(len(lengths[0])) for rank in range(ranks)])
