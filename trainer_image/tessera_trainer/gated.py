"""Gated activations: f(gate) * up over one fused [N, 2 x width] product (arXiv 2002.05202): SwiGLU, GEGLU.

Its gradient writes both halves into one tensor, so that the projection before it has one matrix product for its
gradient, not two and a sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from tessera_trainer.style import Activation


def gated(gate_up: Tensor, activation: Activation = Activation.SILU) -> Tensor:
    """[N, 2 x width], gate before up -> [N, width]."""
    return _Gated.apply(gate_up, activation is Activation.SILU)  # type: ignore[no-any-return]


class _Gated(torch.autograd.Function):
    """Elementwise."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate_up: Tensor, silu: bool) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = functional.silu(gate) if silu else functional.gelu(gate, approximate="tanh")
        ctx.save_for_backward(gate_up, activated)
        ctx.silu = silu  # type: ignore[attr-defined]
        return activated * up

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        """Each half is written in place; a compiler cannot follow that, has no need of it, and gets the plain form."""
        gate_up, activated = ctx.saved_tensors  # type: ignore[attr-defined]
        silu: bool = ctx.silu  # type: ignore[attr-defined]
        gate, up = gate_up.chunk(2, dim=-1)
        if torch.compiler.is_compiling():
            return torch.cat((_slope(gradients[0], gate, silu) * up, gradients[0] * activated), dim=-1), None
        both = torch.empty_like(gate_up)
        of_gate, of_up = both.chunk(2, dim=-1)
        if silu:
            torch.ops.aten.silu_backward.grad_input(gradients[0], gate, grad_input=of_gate)
        else:
            torch.ops.aten.gelu_backward.grad_input(gradients[0], gate, approximate="tanh", grad_input=of_gate)
        of_gate.mul_(up)
        torch.mul(gradients[0], activated, out=of_up)
        return both, None


def _slope(gradient: Tensor, gate: Tensor, silu: bool) -> Tensor:
    if silu:
        return torch.ops.aten.silu_backward(gradient, gate)  # type: ignore[no-any-return]
    return torch.ops.aten.gelu_backward(gradient, gate, approximate="tanh")  # type: ignore[no-any-return]
