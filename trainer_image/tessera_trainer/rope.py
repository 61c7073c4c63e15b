"""RoPE: rotary position embedding (arXiv 2104.09864) in Hugging Face's convention: element i of a head turns with
element i + width / 2, by the angle position * theta^(-2 i / width).

The angles are computed once for a micro-batch, in fp32, and shared by all layers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def rotations(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine [N, 1, width] (the halves alike) and sine [N, 1, width / 2] of each position's angles, fp32.

    The 1 stands for the heads.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device) / head_width
    angles = (positions.to(torch.float32)[:, None] / theta**exponents)[:, None, :]
    cosine = angles.cos()
    return torch.cat((cosine, cosine), dim=-1), angles.sin()


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn `heads` [N, heads, width] by their positions' angles; the dtype of `heads` is kept."""
    return _Rotation.apply(heads, cosine, sine)  # type: ignore[no-any-return]


class _Rotation(torch.autograd.Function):
    """A rotation's gradient is the rotation back: nothing but the angles is kept for it."""

    @staticmethod
    def forward(ctx: FunctionCtx, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turned(heads, cosine, sine, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors  # type: ignore[attr-defined]
        return _turned(gradients[0], cosine, sine, -1), None, None


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor, direction: int) -> Tensor:
    """One product and two sums into its halves: two passes over memory, where a plain expression takes seven."""
    left, right = heads.chunk(2, dim=-1)
    turned = heads * cosine  # float32, by promotion
    low, high = turned.chunk(2, dim=-1)
    low.addcmul_(right, sine, value=-direction)
    high.addcmul_(left, sine, value=direction)
    return turned.to(heads.dtype)
