"""A drill: this process's clock of the day is off for a while. The monotonic one is left alone, as it is when somebody
sets the clock of a machine."""

from __future__ import annotations

import time

OFF_SECONDS = 3600.0


def step_clock(seconds: float, off: float = OFF_SECONDS) -> None:
    """`time.time` is off by `off` seconds for so many seconds, then right again."""
    right, end = time.time, time.monotonic() + seconds

    def stepped() -> float:
        return right() + (off if time.monotonic() < end else 0.0)

    time.time = stepped
