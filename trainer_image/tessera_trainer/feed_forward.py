"""Feed-forward: the part of a block that works on each position alone."""

from __future__ import annotations

from torch import Tensor, nn

from tessera_trainer.gated import gated
from tessera_trainer.shape import ModelShape


class FeedForward(nn.Module):
    """Gated; gate and up are one weight."""

    def __init__(self, shape: ModelShape, width: int) -> None:
        super().__init__()
        bias, self._activation = shape.style.feed_forward_bias, shape.style.activation
        self.gate_up = nn.Linear(shape.hidden, 2 * width, bias=bias)
        self.down = nn.Linear(width, shape.hidden, bias=bias)

    def forward(self, stream: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden]."""
        return self.down(gated(self.gate_up(stream), self._activation))  # type: ignore[no-any-return]
