"""Outages: how long training waits for a storage that refuses, and what it says meanwhile.

What must stay true: a storage's trouble costs time and never work. Only what the storage itself says is waited out
(unavailable, or refused: both are mended from outside); an object that is missing or damaged is not. Waiting is one
rank's own matter, so it is shorter than a collective's limit where other ranks wait in one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tessera_run import Run
from tessera_store import StoreRefused, StoreUnavailable

READ_LIMIT_SECONDS = 1500.0
"""Other ranks may wait in a collective meanwhile, whose limit is longer."""
COMMIT_LIMIT_SECONDS = 4 * 3600.0
"""All ranks wait for the same commit: the run holds nothing but what the storage will not take."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Waiting:
    """How to wait: twice as long each time, up to `longest_s`, as long as `limit_s` is not over."""

    limit_s: float
    first_s: float = 0.5
    longest_s: float = 15.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def outlast(run: Run, what: str, ask: Callable[[], Answer], waiting: Waiting) -> Answer:
    """The answer of `ask`, which is asked again while the storage is in trouble. Says so once, and when it is over.

    Raises the storage's last word at the limit.
    """
    began, pause, tries, before = waiting.clock(), waiting.first_s, 0, run.declared
    while True:
        try:
            answer = ask()
        except (StoreUnavailable, StoreRefused) as error:
            tries += 1
            if waiting.clock() - began + pause > waiting.limit_s:
                raise
            if tries == 1:
                run.note("StorageTrouble", f"{what} waits for the storage: {error}")
                run.phase("checkpoint")  # a wait for the storage, which is no hang
            waiting.sleep(pause)
            pause = min(2 * pause, waiting.longest_s)
            continue
        if tries:
            run.phase(before)
            run.note("StorageBack", f"{what} goes on", seconds=waiting.clock() - began, tries=tries)
        return answer
