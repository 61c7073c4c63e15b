"""Meter: speed, utilisation and time to go, from the steps of a window. Pure state: time comes in as a value.

What must stay true: a step counts with the real time since the step before, so that saves and waits show; tokens and
FLOPs are those of the whole world, peaks are summed over it; what was measured before a restart is not mixed in (a
generation begins with a new meter).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tessera_trainer.flops import six_n_d, training_flops
from tessera_trainer.peak import Peak
from tessera_trainer.shape import ModelShape


@dataclass(frozen=True)
class StepWork:
    """What one step did, over all ranks."""

    tokens: int  # positions that were computed
    attention_pairs: int  # sum over documents of L (L + 1) / 2
    predicting: int | None = None  # positions whose prediction was computed; None: all


@dataclass(frozen=True)
class Reading:
    """Means over the window; None until a whole step was seen."""

    tokens_per_second: float
    mfu: float  # matmul FLOPs with causal and document masks, over the peak
    mfu_6nd: float  # 6 x parameters x tokens, over the peak
    eta_seconds: float  # at this speed


@dataclass(frozen=True)
class _Mark:
    now: float
    work: StepWork


class Meter:
    """Takes each finished step, and reads the last `window` of them."""

    def __init__(
        self,
        shape: ModelShape,
        peak: Peak,
        devices: int,
        *,
        started: float,
        window: int = 20,
        adapter: int | None = None,
    ) -> None:
        """`peak` is one device's; `devices` is how many compute; `started` is when the first step begins, seconds.
        `adapter`: see `training_flops`."""
        self._shape, self._adapter = shape, adapter
        self.peak = peak
        self._flops_per_second = peak.flops * devices
        self._marks: deque[_Mark] = deque([_Mark(started, StepWork(0, 0))], maxlen=window + 1)

    def step(self, work: StepWork, now: float, tokens_left: int) -> Reading | None:
        """Take a step that ended at `now` (seconds on the clock of `started`), with `tokens_left` to the run's end."""
        self._marks.append(_Mark(now, work))
        seconds = now - self._marks[0].now
        if seconds <= 0:
            return None
        counted = list(self._marks)[1:]
        tokens = sum(mark.work.tokens for mark in counted)
        pairs = sum(mark.work.attention_pairs for mark in counted)
        predicting = sum(mark.work.tokens if mark.work.predicting is None else mark.work.predicting for mark in counted)
        speed = tokens / seconds
        return Reading(
            tokens_per_second=speed,
            mfu=training_flops(self._shape, tokens, pairs, predicting, self._adapter)
            / seconds
            / self._flops_per_second,
            mfu_6nd=six_n_d(self._shape, tokens) / seconds / self._flops_per_second,
            eta_seconds=tokens_left / speed if speed else float("inf"),
        )
