"""Adapter: small matrices beside frozen ones, which alone are trained (LoRA, arXiv 2106.09685).

Each matrix W of attention and feed-forward, [rows, columns], becomes W + alpha / rank x up down: `down` [rank, columns]
drawn at random, `up` [rows, rank] zero, so that training begins with the model as it is. Where several matrices of
others are one weight of ours, each has a pair of its own, as others' tools expect it: `adapter_down` has the pairs'
rows below each other, `adapter_up` those of W. Embeddings, norms, biases, the head and experts stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

DOWN, UP = "adapter_down", "adapter_up"


@dataclass(frozen=True)
class Adapter:
    """How large it is, and how much it counts."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """What `up down` is multiplied with."""
        return self.alpha / self.rank


class AdaptedLinear(nn.Linear):
    """A linear layer of several matrices with these `rows`, each with an adapter."""

    def __init__(self, columns: int, rows: tuple[int, ...], bias: bool, adapter: Adapter) -> None:
        super().__init__(columns, sum(rows), bias=bias)
        self.rows, self.adapter = rows, adapter
        self.adapter_down = nn.Parameter(torch.empty(len(rows) * adapter.rank, columns))
        self.adapter_up = nn.Parameter(torch.empty(sum(rows), adapter.rank))

    def forward(self, input: Tensor) -> Tensor:
        """[N, columns] -> [N, rows]."""
        low = torch.split(functional.linear(input, self.adapter_down), self.adapter.rank, dim=-1)
        parts = zip(low, torch.split(self.adapter_up, list(self.rows)), strict=True)
        more = torch.cat([functional.linear(each, up) for each, up in parts], dim=-1)
        return torch.add(super().forward(input), more, alpha=self.adapter.scale)


def linear(columns: int, rows: tuple[int, ...], bias: bool, adapter: Adapter | None) -> nn.Linear:
    """A layer of matrices with these rows, below each other."""
    return nn.Linear(columns, sum(rows), bias=bias) if adapter is None else AdaptedLinear(columns, rows, bias, adapter)


def freeze(model: nn.Module) -> None:
    """Only adapters are trained from now on."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return name.endswith((DOWN, UP))


def adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The layers with adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def adapter_parameters(model: nn.Module) -> int | None:
    """Numbers in adapters; None where there are none, and all is trained."""
    return sum(one.numel() for name, one in model.named_parameters() if is_adapter(name)) or None


@dataclass(frozen=True)
class Pair:
    """The adapter of one layer, whole."""

    down: Tensor
    up: Tensor
    rows: tuple[int, ...]
    adapter: Adapter

    def matrices(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(down, up) of each matrix."""
        yield from zip(torch.split(self.down, self.adapter.rank), torch.split(self.up, list(self.rows)), strict=True)

    def merged(self, weight: Tensor) -> Tensor:
        """What the layer's matrices are with it, computed in float64."""
        more = torch.cat([up.double() @ down.double() for down, up in self.matrices()])
        return (weight.double() + self.adapter.scale * more).to(weight.dtype)


def merged(
    weights: Iterator[tuple[str, Tensor]], layers: Mapping[str, AdaptedLinear], found: dict[str, Pair]
) -> Iterator[tuple[str, Tensor]]:
    """The model's weights, in its order, with adapters in them; the adapters themselves go into `found`. One layer is
    in memory at a time, and all adapters."""
    held: dict[str, Tensor] = {}
    for name, weight in weights:
        layer, _, kind = name.rpartition(".")
        if layer not in layers or kind == "bias":
            yield name, weight
            continue
        held[kind] = weight.to("cpu", copy=True)
        if kind == UP:  # the last of a layer
            found[layer] = Pair(held[DOWN], held[UP], layers[layer].rows, layers[layer].adapter)
            yield f"{layer}.weight", found[layer].merged(held.pop("weight"))
            held.clear()
