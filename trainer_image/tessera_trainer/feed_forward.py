"""Feed-forward: the part of a block that works on each position alone."""

from __future__ import annotations

from torch import Tensor, nn

from tessera_trainer.adapter import Adapter, linear
from tessera_trainer.gated import gated
from tessera_trainer.shape import ModelShape


class FeedForward(nn.Module):
    """Gated; gate and up are one weight."""

    def __init__(self, shape: ModelShape, width: int, adapter: Adapter | None = None) -> None:
        super().__init__()
        bias, self._activation = shape.style.feed_forward_bias, shape.style.activation
        self.gate_up = linear(shape.hidden, (width, width), bias, adapter)
        self.down = linear(width, (shape.hidden,), bias, adapter)

    def forward(self, stream: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden]."""
        return self.down(gated(self.gate_up(stream), self._activation))  # type: ignore[no-any-return]
