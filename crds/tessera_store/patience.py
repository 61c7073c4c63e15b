"""How often and how long a store is asked again before its trouble becomes the caller's.

Only `StoreUnavailable` is worth a retry. The wait doubles up to a bound and is drawn at random below it (full jitter),
so that a thousand ranks that were refused together do not return together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tessera_store.errors import StoreUnavailable

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds of one call to a store."""

    attempts: int = 5
    """How often the store is asked in all, at least 1."""
    first_wait_s: float = 0.1
    """The bound of the first wait; each later one is twice as high."""
    longest_wait_s: float = 2.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    """The longest silence of an open connection."""

    def retry(self, ask: Callable[[], Answer]) -> Answer:
        """The first answer of `ask` that is not StoreUnavailable; after the last attempt that error."""
        bound = self.first_wait_s
        for _ in range(self.attempts - 1):
            try:
                return ask()
            except StoreUnavailable:
                time.sleep(random.uniform(0, bound))
                bound = min(2 * bound, self.longest_wait_s)
        return ask()
