"""The queue of keys that have to be looked at. Owns when: a key is worked by one task at a time, a key that is woken
while it is worked is worked again after, failures back off up to a limit."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 0.05
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0


@dataclass(frozen=True, order=True)
class Key:
    """One resource."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True)
class Pass:
    """A pass that is over."""

    key: Key
    seconds: float
    well: bool
    """Whether it did not fail."""
    waited: float | None
    """Seconds from the event that woke the key to the end of the pass; None when no event did."""


Work = Callable[[Key], Awaitable[float | None]]
"""Returns the seconds after which the key is to be looked at again; None: not before it is woken."""


class Wakes:
    """See the module. `work` may fail; it is called again."""

    def __init__(self, work: Work, workers: int = 16) -> None:
        self._work, self._workers = work, workers
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: dict[Key, asyncio.TimerHandle] = {}
        self._queued: set[Key] = set()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._woken: dict[Key, float] = {}
        """When an event woke the key, by the loop's clock, until a pass has begun after it."""
        self.on_pass: Callable[[Pass], None] = lambda done: None
        """Called after each pass."""

    @property
    def queued(self) -> int:
        """Keys that wait for a pass."""
        return len(self._queued) + len(self._again)

    def wake(self, key: Key, after: float = SETTLE_SECONDS) -> None:
        """Look at `key` at the latest after so many seconds."""
        loop = asyncio.get_running_loop()
        if after <= SETTLE_SECONDS:
            self._woken.setdefault(key, loop.time())
        timer = self._waiting.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + after:
                return
            timer.cancel()
        self._waiting[key] = loop.call_later(after, self._due, key)

    def _due(self, key: Key) -> None:
        self._waiting.pop(key, None)
        if key in self._busy:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued.discard(key)
            self._busy.add(key)
            began, woken = asyncio.get_running_loop().time(), self._woken.pop(key, None)
            try:
                after = await self._attempt(key)
            finally:
                self._busy.discard(key)
            now = asyncio.get_running_loop().time()
            waited = None if woken is None else now - woken
            self.on_pass(Pass(key, now - began, key not in self._failures, waited))
            if key in self._again:
                self._again.discard(key)
                self.wake(key)
            elif after is not None:
                self.wake(key, after)

    async def _attempt(self, key: Key) -> float | None:
        """The one catch-all: whatever a pass trips over costs that pass, and the key is tried again."""
        try:
            after: float | None = await self._work(key)
        except Exception:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(count - 1, 10)) * random.uniform(0.8, 1.2)
            logger.exception("%s %s/%s: tried again in %.0f s", key.kind, key.namespace, key.name, pause)
            return pause
        self._failures.pop(key, None)
        return after
