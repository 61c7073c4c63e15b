"""RoPE: rotary position embedding (arXiv 2104.09864) in Hugging Face's convention: element i of a head turns with
element i + width / 2, by the angle position * theta^(-2 i / width), which a stretch makes smaller for slow turns.

The angles are computed once for a micro-batch, in fp32, and shared by all layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from tessera_trainer.style import Rotation, Stretch


def rotations(positions: Tensor, head_width: int, rotation: Rotation) -> tuple[Tensor, Tensor]:
    """Cosine [N, 1, width] (the halves alike) and sine [N, 1, width / 2] of each position's angles, fp32.

    The 1 stands for the heads.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device) / head_width
    periods = _STRETCHES[rotation.stretch](rotation.theta**exponents, rotation)
    angles = (positions.to(torch.float32)[:, None] / periods)[:, None, :]
    cosine, sine = angles.cos(), angles.sin()
    if rotation.gain != 1.0:
        cosine, sine = cosine * rotation.gain, sine * rotation.gain
    return torch.cat((cosine, cosine), dim=-1), sine


def _linear(periods: Tensor, rotation: Rotation) -> Tensor:
    return periods * rotation.factor


def _llama3(periods: Tensor, rotation: Rotation) -> Tensor:
    """By how many full turns an element makes within the original length."""
    turns = rotation.original_length / (2 * math.pi * periods)
    kept = ((turns - rotation.low) / (rotation.high - rotation.low)).clamp(0, 1)
    return 1 / (kept / periods + (1 - kept) / (periods * rotation.factor))


def _yarn(periods: Tensor, rotation: Rotation) -> Tensor:
    """By a ramp over the elements of a head, between the two that make `high` and `low` turns."""
    width = 2 * periods.shape[0]

    def element(turns: float) -> float:
        of_one_turn = rotation.original_length / (turns * 2 * math.pi)
        return width * math.log(of_one_turn) / (2 * math.log(rotation.theta))

    first, last = element(rotation.high), element(rotation.low)
    if rotation.whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    places = torch.arange(periods.shape[0], dtype=torch.float32, device=periods.device)
    divided = ((places - first) / max(last - first, 0.001)).clamp(0, 1)
    return 1 / (divided / (periods * rotation.factor) + (1 - divided) / periods)


_STRETCHES: dict[Stretch, Callable[[Tensor, Rotation], Tensor]] = {
    Stretch.NONE: lambda periods, _: periods,
    Stretch.LINEAR: _linear,
    Stretch.LLAMA3: _llama3,
    Stretch.YARN: _yarn,
}


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
