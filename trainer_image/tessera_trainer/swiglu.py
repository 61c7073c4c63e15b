"""SwiGLU: silu(gate) * up over one fused [N, 2 x width] product (arXiv 2002.05202).

Its gradient writes both halves into one tensor, so that the projection before it has one matrix product for its
gradient, not two and a sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional


def swiglu(gate_up: Tensor) -> Tensor:
    """[N, 2 x width], gate before up -> [N, width]."""
    return _SwiGlu.apply(gate_up)  # type: ignore[no-any-return]


class _SwiGlu(torch.autograd.Function):
    """Elementwise."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = functional.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        """Each half is written in place; a compiler cannot follow that, has no need of it, and gets the plain form."""
        gate_up, activated = ctx.saved_tensors  # type: ignore[attr-defined]
        gate, up = gate_up.chunk(2, dim=-1)
        if torch.compiler.is_compiling():
            of_gate = torch.ops.aten.silu_backward(gradients[0], gate) * up
            return torch.cat((of_gate, gradients[0] * activated), dim=-1)
        both = torch.empty_like(gate_up)
        of_gate, of_up = both.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(gradients[0], gate, grad_input=of_gate)
        of_gate.mul_(up)
        torch.mul(gradients[0], activated, out=of_up)
        return both
