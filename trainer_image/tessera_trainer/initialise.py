"""Initialise: first weights, the same bits at every world size and on every device.

A parameter's values come from (seed, its name, a band of its rows): a rank that owns some rows draws the bands that
cover them, on the CPU, and no other. Matrices are normal with deviation 0.02, those that write into the residual stream
0.02 / sqrt(2 layers) (GPT-2's rule: the stream's variance does not grow with depth); norms are 1, biases 0. Of
adapters `down` is normal with deviation 1 / sqrt(3 columns) (the variance that PEFT draws with), `up` is 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from tessera_trainer.adapter import DOWN, UP
from tessera_trainer.model import Decoder

_DEVIATION = 0.02
_BAND = 256
"""Rows that are drawn together."""
_RESIDUAL_OUTPUTS = ("attention.output.weight", "feed_forward.down.weight", "shared.down.weight")


@torch.no_grad()
def initialise(model: Decoder, seed: int) -> None:
    """Write every parameter of `model`, whole or sharded by FSDP2 (each rank its own rows), in place.

    Raises ValueError where a parameter is sharded otherwise than by rows.
    """
    for name, parameter in model.named_parameters():
        local, first = _local_rows(name, parameter)
        if name.endswith(UP):
            local.zero_()
            continue
        _fill(local, name, seed, first, parameter.shape, _deviation(name, model.shape.layers, parameter.shape[-1]))


def _deviation(name: str, layers: int, columns: int) -> float:
    if name.endswith(DOWN):
        return 1 / math.sqrt(3 * columns)
    return _DEVIATION / math.sqrt(2 * layers) if name.endswith(_RESIDUAL_OUTPUTS) else _DEVIATION


def _fill(local: Tensor, name: str, seed: int, first: int, shape: Sequence[int], deviation: float) -> None:
    """Write rows [first, first + len(local)) of the parameter of this `shape` into `local`."""
    if len(shape) == 1:
        local.fill_(0.0 if name.endswith(".bias") else 1.0)
        return
    last = first + local.shape[0]
    for band in range(first // _BAND, -(-last // _BAND)):
        begin = band * _BAND
        end = min(begin + _BAND, shape[0])
        drawn = torch.empty(end - begin, *shape[1:]).normal_(0.0, deviation, generator=_generator(seed, name, band))
        low, high = max(begin, first), min(end, last)
        local[low - first : high - first] = drawn[low - begin : high - begin].to(local)


def _generator(seed: int, name: str, band: int) -> torch.Generator:
    key = hashlib.sha256(f"{seed}/{name}/{band}".encode()).digest()[:8]
    return torch.Generator("cpu").manual_seed(int.from_bytes(key, "little") >> 1)


def _local_rows(name: str, parameter: nn.Parameter) -> tuple[Tensor, int]:
    """What this rank holds of a parameter, and which row of the whole its first row is (FSDP2 cuts as `chunk` does)."""
    if not isinstance(parameter, DTensor):
        return parameter, 0
    first, rows = 0, parameter.shape[0]
    for dimension, placement in enumerate(parameter.placements):
        if placement.is_replicate():
            continue
        if not isinstance(placement, Shard) or placement.dim != 0:
            raise ValueError(f"{name} is placed as {placement}; only rows can be sharded")
        each = -(-rows // parameter.device_mesh.size(dimension))
        skipped = min(rows, each * parameter.device_mesh.get_local_rank(dimension))
        first, rows = first + skipped, min(each, rows - skipped)
    return parameter.to_local(), first
