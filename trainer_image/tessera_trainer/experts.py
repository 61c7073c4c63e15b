"""Experts: many feed-forwards, of which each position uses a few (mixture of experts: arXiv 2101.03961, 2401.04088).

No position is dropped and none is padded: rows are put in the order of their experts, and one grouped matrix product
serves them all. Rows are moved by permutations alone, forward and backward, so that nothing is summed in an order that
chance decides.

All experts' weights lie below each other in one matrix, expert after expert, so that they are sharded, normed and
saved by rows as every other weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from tessera_trainer.feed_forward import FeedForward
from tessera_trainer.gated import gated
from tessera_trainer.shape import ModelShape
from tessera_trainer.style import Mixture


class Stacked(nn.Module):
    """One matrix for each of `count` experts: weight [count x rows, columns]."""

    def __init__(self, count: int, rows: int, columns: int) -> None:
        super().__init__()
        self._count = count
        self.weight = nn.Parameter(torch.empty(count * rows, columns))

    def forward(self, grouped: Tensor, ends: Tensor) -> Tensor:
        """[M, columns] -> [M, rows]; expert e has the rows up to `ends[e]` (int32), from where the one before ends."""
        matrices = self.weight.view(self._count, -1, self.weight.shape[1]).transpose(1, 2)
        return functional.grouped_mm(grouped, matrices, offs=ends)


class MixtureFeedForward(nn.Module):
    """Works on each position alone, by the experts that its router chooses."""

    def __init__(self, shape: ModelShape, mixture: Mixture) -> None:
        super().__init__()
        self._mixture, self._activation = mixture, shape.style.activation
        self.router = nn.Linear(shape.hidden, mixture.count, bias=False)
        self.gate_up = Stacked(mixture.count, 2 * mixture.width, shape.hidden)
        self.down = Stacked(mixture.count, shape.hidden, mixture.width)
        if mixture.shared:
            self.shared = FeedForward(shape, mixture.shared)
            self.shared_gate = nn.Linear(shape.hidden, 1, bias=False)

    def forward(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """[N, hidden] -> [N, hidden], and how unevenly it chose: `chosen` where each expert had as many, more else."""
        chances = functional.softmax(self.router(stream), dim=-1, dtype=torch.float32)
        shares, chosen = torch.topk(chances, self._mixture.chosen, dim=-1)
        if self._mixture.normalised:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        order = torch.argsort(chosen.flatten(), stable=True)
        loads = torch.zeros_like(chances).scatter_(1, chosen, 1.0).sum(dim=0)
        ends = loads.cumsum(0).to(torch.int32)
        rows = _Spread.apply(stream, order, self._mixture.chosen)
        made = self.down(gated(self.gate_up(rows, ends), self._activation), ends)
        apart = _Back.apply(made, order, self._mixture.chosen)
        mixed = torch.einsum("nkh,nk->nh", apart, shares.to(stream.dtype))
        if self._mixture.shared:
            mixed = mixed + functional.sigmoid(self.shared_gate(stream)) * self.shared(stream)
        balance = (loads * chances.mean(dim=0)).sum() * (self._mixture.count / stream.shape[0])
        return mixed, balance


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))


class _Spread(torch.autograd.Function):
    """[N, hidden] -> [N x chosen, hidden]: a position's row once for each of its experts, in the experts' order."""

    @staticmethod
    def forward(ctx: FunctionCtx, stream: Tensor, order: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.chosen = chosen  # type: ignore[attr-defined]
        return stream.index_select(0, order // chosen)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors  # type: ignore[attr-defined]
        chosen: int = ctx.chosen  # type: ignore[attr-defined]
        back = gradients[0].index_select(0, _inverse(order))
        return back.view(-1, chosen, back.shape[1]).sum(dim=1), None, None


class _Back(torch.autograd.Function):
    """[N x chosen, hidden] in the experts' order -> [N, chosen, hidden]."""

    @staticmethod
    def forward(ctx: FunctionCtx, made: Tensor, order: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(order)
        return made.index_select(0, _inverse(order)).view(-1, chosen, made.shape[1])

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0].flatten(0, 1).index_select(0, order), None, None
