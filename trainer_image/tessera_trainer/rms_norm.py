"""RMSNorm (arXiv 1910.07467), y = weight * x / sqrt(mean(x^2) + epsilon), statistics in fp32.

One function with its own gradient, because the composed form reads and writes each activation a dozen times, which on
a CPU costs as much as a small matrix product. What is kept for the gradient: the input and one fp32 number per row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class RmsNorm(nn.Module):
    """Normalises the rows of [N, width]."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, rows: Tensor) -> Tensor:
        """[N, width] -> [N, width], in the dtype of `rows`."""
        return _RmsNorm.apply(rows, self.weight, self.epsilon)  # type: ignore[no-any-return]


class _RmsNorm(torch.autograd.Function):
    """Row by row, so that a row's bits do not depend on the rows beside it."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(norm * norm / rows.shape[-1] + epsilon)
        ctx.save_for_backward(rows, weight, scale)
        return (rows * scale).mul_(weight).to(rows.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """With n = x * scale: dw = sum over rows of g n; dx = scale (g w - n mean(g w n))."""
        rows, weight, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = gradients[0].float()
        product = gradient * rows
        weight_gradient = torch.mv(product.t(), scale.squeeze(1))
        projection = torch.mv(product, weight.float())[:, None] * scale.pow(3) / -rows.shape[-1]
        row_gradient = (gradient * weight).mul_(scale).addcmul_(rows, projection)
        return row_gradient.to(rows.dtype), weight_gradient.to(weight.dtype), None
