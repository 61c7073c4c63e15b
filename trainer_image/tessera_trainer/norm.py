"""The canonical norm of the gradients: the same bits however rows are spread over ranks.

Each row's sum of squares, and then the sum over all rows in the order of the parameters, is formed by halving with
elementwise additions alone: a library's own reduction may choose its order by size and alignment of the shard.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tessera_trainer.shards import Shard, gather_columns, rows_of


def halving_sum(values: Tensor) -> Tensor:
    """The sum over the last dimension, which may be empty; its order depends on the length of that dimension alone."""
    length = values.shape[-1]
    if length == 0:
        return values.new_zeros(values.shape[:-1])
    while length > 1:
        half = 1 << ((length - 1).bit_length() - 1)
        lower = values[..., :half].clone()
        lower[..., : length - half] += values[..., half:length]
        values, length = lower, half
    return values[..., 0]


def _row_squares(local: Tensor) -> Tensor:
    """The sum of squares of each row [rows], float32; a vector's rows are its numbers."""
    rows = local.float().flatten(1) if local.dim() > 1 else local.float().unsqueeze(-1)
    return halving_sum(rows.square())


@torch.no_grad()
def canonical_norm(gradients: Sequence[Shard], group: dist.ProcessGroup) -> float:
    """The Euclidean norm over all gradients, equal on every rank; not finite where a gradient is not."""
    squares = torch.cat([_row_squares(shard.local) for shard in gradients])
    ranks = range(group.size())
    lengths = [[len(rows_of(shard.shape[0], group.size(), rank)) for shard in gradients] for rank in ranks]
    rows = gather_columns(squares, lengths, group)
    return float(halving_sum(rows.double()).sqrt().item())
