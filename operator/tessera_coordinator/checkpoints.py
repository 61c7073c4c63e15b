"""From the ranks' parts to a commit in the log, and on to what is retired. Owns the open generation's parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tessera_api.log import Commit, Open, Retire
from tessera_api.messages import Part
from tessera_coordinator.core.commits import Parts, ReadyCommit
from tessera_coordinator.core.history import History
from tessera_coordinator.garbage import retention
from tessera_coordinator.run_log import Ruled
from tessera_coordinator.scribe import Job, Scribe


@dataclass(frozen=True)
class Outcomes:
    """Who is told what came of it."""

    committed: Callable[[Commit, ReadyCommit], None]
    retired: Callable[[Retire], None]


class Fate(Enum):
    """What became of a part."""

    WAITING = "waiting for the other ranks' or for the log"
    COMMITTED = "committed"
    VOID = "of a generation that is over"


class Checkpoints:
    """Commits only for the generation that was opened last; a part of any other is garbage by definition. That one may
    be over: keepers go on storing what its trainers had staged, and what is whole before the next is opened counts."""

    def __init__(self, scribe: Scribe, keep: int, term: Callable[[], int], outcomes: Outcomes) -> None:
        self._scribe, self._keep, self._term, self._outcomes = scribe, keep, term, outcomes
        self._open: Open | None = None
        self._parts: Parts | None = None
        self._writing: set[int] = set()

    def opened(self, generation: Open, committed: int) -> None:
        """A generation is open; `committed` is the newest committed step."""
        self._open, self._parts = generation, Parts(generation, committed)
        self._writing.clear()

    def add(self, part: Part) -> Fate:
        """One rank's part. Raises PartRefused."""
        if self._parts is None or self._open is None or part.generation != self._open.generation:
            return Fate.VOID
        ready = self._parts.add(part)
        if ready is not None and ready.step not in self._writing:
            self._commit(ready, self._open)
        return Fate.COMMITTED if self._parts.done(part.step) else Fate.WAITING

    def _commit(self, ready: ReadyCommit, generation: Open) -> None:
        self._writing.add(ready.step)

        def make(history: History) -> Ruled | None:
            newest = history.newest
            if (newest is not None and newest.step >= ready.step) or history.reopen:
                return None
            return Commit(
                term=self._term(),
                generation=ready.generation,
                step=ready.step,
                position=ready.position,
                objects=ready.objects,
                time=time.time(),
            )

        def done(entry: Ruled | None) -> None:
            self._writing.discard(ready.step)
            if isinstance(entry, Commit):
                if self._parts is not None and self._open is generation:
                    self._parts.committed(entry.step)
                self._outcomes.committed(entry, ready)
                self._retire()

        self._scribe.write(Job(make, done, lambda: self._open is generation))

    def _retire(self) -> None:
        def make(history: History) -> Ruled | None:
            steps = retention(history, self._keep)
            return Retire(term=self._term(), steps=steps, time=time.time()) if steps else None

        def done(entry: Ruled | None) -> None:
            if isinstance(entry, Retire):
                self._outcomes.retired(entry)

        self._scribe.write(Job(make, done))
