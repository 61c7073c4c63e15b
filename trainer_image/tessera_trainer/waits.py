"""How long a rank waits in collectives: what is left of a step is its own work, by which ranks are compared.

On a CPU a collective holds the thread, and the clock tells. On a GPU it is a kernel on a stream, which begins when this
rank's data is there and ends when all others' has come: two events around it tell, once the step is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Waits:
    """Of one rank, since the last `take`."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._on_gpu, self._clock = device.type == "cuda", clock
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a collective."""
        if self._on_gpu:
            begin, end = _event(), _event()
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
            return
        began = self._clock()
        yield
        self._seconds += self._clock() - began

    def take(self) -> float:
        """Seconds; what comes from now on is counted anew. On a GPU to be called when the step is over: it waits."""
        seconds, self._seconds = self._seconds, 0.0
        for begin, end in self._events:
            end.synchronize()
            seconds += begin.elapsed_time(end) / 1000.0
        self._events.clear()
        return seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
