"""The learning rate of each step, as a pure function of the step.

Rates are given as decimal strings, as in the manifest, and become a float once. Steps count from 0: the rate of step s
is used by the update that makes the model of step s + 1. The last step reaches the final rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import assert_never


class ScheduleKind(Enum):
    """What happens after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    WSD = "wsd"
    """Warm-up, stable, decay: the peak is held, then falls linearly over the last `decay_steps`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Raises ValueError for numbers that make no schedule."""

    kind: ScheduleKind
    peak: str
    """The highest rate, a decimal string such as "6e-4"."""
    total_steps: int
    warmup_steps: int = 0
    decay_steps: int = 0
    """For WSD alone: the length of the fall at the end."""
    final_share: str = "0.1"
    """The last step's rate as a share of the peak."""

    def __post_init__(self) -> None:
        if not (0 < float(Decimal(self.peak)) < math.inf and 0 <= Decimal(self.final_share) <= 1):
            raise ValueError(f"peak {self.peak} must be positive and final share {self.final_share} between 0 and 1")
        if self.total_steps < 1 or self.warmup_steps < 0 or self.decay_steps < 0:
            raise ValueError(f"a schedule of {self.total_steps} steps needs at least 1, and no negative part")
        if self.warmup_steps + self.decay_steps > self.total_steps:
            raise ValueError(
                f"warm-up of {self.warmup_steps} and decay of {self.decay_steps} steps "
                f"are longer than the {self.total_steps} steps of the run"
            )

    def rate(self, step: int) -> float:
        """The learning rate of `step`; beyond the end it stays at the final rate."""
        peak, final = float(Decimal(self.peak)), float(Decimal(self.final_share))
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        return peak * (final + (1.0 - final) * self._height(step))

    def _height(self, step: int) -> float:
        """How far above the final rate, from 1 (the peak) to 0."""
        match self.kind:
            case ScheduleKind.COSINE:
                return 0.5 * (1.0 + math.cos(math.pi * self._fallen(step, self.warmup_steps)))
            case ScheduleKind.LINEAR:
                return 1.0 - self._fallen(step, self.warmup_steps)
            case ScheduleKind.WSD:
                return 1.0 - self._fallen(step, self.total_steps - self.decay_steps)
            case _:
                assert_never(self.kind)

    def _fallen(self, step: int, start: int) -> float:
        """The share of the fall, which begins before step `start`, that step `step` has made; 1 at the last step."""
        length = self.total_steps - start
        return min(max((step + 1 - start) / length, 0.0), 1.0) if length else 0.0
