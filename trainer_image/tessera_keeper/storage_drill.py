"""Drills of the way to the storage: it is slow, it is full, an upload breaks off half way.

What must stay true: nothing is told as stored that is not whole.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from tessera_api.drill import Fault
from tessera_store import Store, StoreUnavailable

SLOW_SECONDS = 2.0
"""More for each part, while the storage is slow."""


class StorageDrill:
    """Which of them is on, and until when."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._fault: Fault | None = None
        self._until = 0.0

    def order(self, fault: Fault, seconds: float) -> None:
        """From now on, for so long. A torn upload is done once, whenever the next one is."""
        self._fault, self._until = fault, self._clock() + seconds

    def put(self, store: Store, name: str, path: Path) -> None:
        """`store.put`, as it goes now. Raises the store's errors."""
        match self._fault:
            case Fault.TORN_UPLOAD:
                self._fault = None
                with path.open("rb") as file:
                    store.put(name, file.read(path.stat().st_size // 2))
                raise StoreUnavailable(f"{name}: the connection broke half way, as a drill wants it")
            case Fault.DISK_FULL if self._clock() < self._until:
                raise StoreUnavailable(f"{name}: {os.strerror(errno.ENOSPC)}, as a drill wants it")
            case Fault.SLOW_STORAGE if self._clock() < self._until:
                self._sleep(SLOW_SECONDS)
                store.put(name, path)
            case _:
                store.put(name, path)
