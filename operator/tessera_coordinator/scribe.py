"""The one writer of log entries: in order, off the event loop, with patience for a storage that is away.

Owns the coordinator's hold of the log. Each job is tried until it is written, is void, or is no longer wanted; a
newer term ends the program.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tessera_coordinator.core.history import History
from tessera_coordinator.run_log import Ruled, RunLog, StaleGeneration
from tessera_store import StoreUnavailable

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
LOOK_SECONDS = 10.0
"""A coordinator that has nothing to write looks so often for a newer term in the log."""


@dataclass(frozen=True)
class Job:
    """An entry to be written."""

    make: Callable[[History], Ruled | None]
    """The entry as of the history then; None: nothing to write any more."""
    done: Callable[[Ruled | None], None]
    """Called on the event loop: with the entry once it stands, with None when it does not and won't."""
    wanted: Callable[[], bool] = lambda: True
    """Whether it is still worth trying while storage is away."""


class Scribe:
    """Writes jobs one after the other. `run` raises Superseded when another coordinator leads."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self.on_trouble: Callable[[str | None], None] = lambda message: None
        """Called with a message when storage goes away, with None when it is back."""
        self._away = False

    @property
    def history(self) -> History:
        """The log as last read or written."""
        return self._log.history

    def write(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.put_nowait(job)

    async def run(self) -> None:
        """Until cancelled. Raises Superseded, IllegalEntry (a bug)."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    job = await self._jobs.get()
            except TimeoutError:
                await self._look()
                continue
            job.done(await self._carry_out(job))

    async def _look(self) -> None:
        """Nothing was to be written for a while: does anybody else lead meanwhile? Raises Superseded."""
        with suppress(StoreUnavailable):
            await asyncio.to_thread(self._log.check_term)

    async def _carry_out(self, job: Job) -> Ruled | None:
        entry = job.make(self._log.history) if job.wanted() else None
        pause = FIRST_PAUSE_SECONDS
        while entry is not None:
            try:
                await asyncio.to_thread(self._log.append, entry)
            except StaleGeneration:
                return None
            except StoreUnavailable as error:
                self._trouble(str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                if not job.wanted():
                    return None
                # The same entry again: it may stand in the log already, only its answer lost.
                continue
            self._trouble(None)
            return entry
        return None

    def _trouble(self, message: str | None) -> None:
        away = message is not None
        if away != self._away:
            self._away = away
            self.on_trouble(message)
