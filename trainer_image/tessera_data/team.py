"""Team: one build by several workers that share nothing but an object store, and need not all live.

Every task has an owner, by its number. A worker does its own tasks, then waits until all of the stage have a record;
the tasks of an owner whose heart has stopped are done by whoever waits. What must stay true: a stage begins when the
one before is whole; one worker that lives finishes the build; two that do one task write the same bytes, so that a
mistake about a heart costs time and nothing else. No worker compares its clock with another's.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from tessera_data.workspace import SharedWorkspace, Workspace
from tessera_store import ObjectMissing, Store, StoreError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""A heart that has not been seen to beat for so long has stopped."""
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 1.0, 10.0
"""From one look at what others have finished to the next while it waits; each is twice as long while nothing moves."""
BUSY_LOOK_SECONDS = 15.0
"""The same while it works: a look lists everything that is finished."""


@dataclass(frozen=True)
class Task:
    """One piece of a stage. `do` passes over what has a record."""

    name: str
    do: Callable[[], object]


Counted = Callable[[int, int], None]
"""(tasks done, tasks in all), whenever that has changed."""


class Workers(Protocol):
    """Who does the tasks of a stage."""

    def workspace(self, workspace: Workspace) -> Workspace:
        """Where all of them leave what they have finished."""

    def complete(self, tasks: Sequence[Task], workspace: Workspace, counted: Counted) -> None:
        """Returns when every task has a record. Raises what a task raises, and BuiltElsewhere."""


class BuiltElsewhere(Exception):
    """Another worker has finished the whole build meanwhile."""


class Alone:
    """One worker, on a folder of its own."""

    def workspace(self, workspace: Workspace) -> Workspace:
        """As it is."""
        return workspace

    def complete(self, tasks: Sequence[Task], workspace: Workspace, counted: Counted) -> None:
        """One after the other."""
        for done, task in enumerate(tasks, 1):
            task.do()
            counted(done, len(tasks))


@dataclass
class Team:
    """One of `of` workers; what they share lies in `store`. Its heart beats from `begin` to `end`."""

    store: Store
    index: int
    of: int
    is_over: Callable[[], bool] = lambda: False
    """Whether the dataset is published: asked while waiting."""
    silent_seconds: float = SILENT_SECONDS
    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _hearts: dict[int, tuple[bytes, float]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """The heart beats from now on, in a thread."""
        threading.Thread(target=self._beat, name="heart", daemon=True).start()

    def end(self) -> None:
        """It stops, and leaves no trace."""
        self._stopped.set()
        with suppress(StoreError):
            self.store.delete(f"hearts/{self.index}")

    def workspace(self, workspace: Workspace) -> Workspace:
        """The same files, and what others have finished, through the store."""
        return SharedWorkspace(workspace.root, self.store, f"{workspace.root.name}/")

    def complete(self, tasks: Sequence[Task], workspace: Workspace, counted: Counted) -> None:
        """Its own tasks, then whatever nobody alive is at."""
        missing, shown, pause, look_at = dict(enumerate(tasks)), -1, LOOK_SECONDS, self.now()
        while missing:
            if self.now() >= look_at:
                workspace.look()
                missing = {number: task for number, task in missing.items() if not workspace.done(task.name)}
                look_at = self.now() + BUSY_LOOK_SECONDS
            if len(tasks) - len(missing) != shown:
                shown, pause = len(tasks) - len(missing), LOOK_SECONDS
                counted(shown, len(tasks))
            chosen = self._choose(missing)
            if chosen is not None:
                missing.pop(chosen).do()
            elif missing:
                self._wait(pause)
                pause, look_at = min(2 * pause, LONGEST_LOOK_SECONDS), self.now()
        if shown != len(tasks):
            counted(len(tasks), len(tasks))

    def _wait(self, pause: float) -> None:
        if self.is_over():
            raise BuiltElsewhere
        self.pause(pause)

    def _choose(self, missing: dict[int, Task]) -> int | None:
        """Our own first; then, beginning at a place of our own, one whose owner is gone."""
        own = next((number for number in missing if number % self.of == self.index), None)
        if own is not None or not missing:
            return own
        gone = [number for number in missing if self._is_gone(number % self.of)]
        return gone[self.index % len(gone)] if gone else None

    def _is_gone(self, worker: int) -> bool:
        seen, now = self._heart(worker), self.now()
        before = self._hearts.get(worker)
        if before is None or before[0] != seen:
            self._hearts[worker] = (seen, now)
            return False
        return now - before[1] > self.silent_seconds

    def _heart(self, worker: int) -> bytes:
        try:
            return self.store.get(f"hearts/{worker}")
        except ObjectMissing:
            return b""

    def _beat(self) -> None:
        while not self._stopped.is_set():
            try:
                self.store.put(f"hearts/{self.index}", uuid.uuid4().bytes)
            except StoreError as error:
                logger.warning("the heart misses a beat: %s", error)
            self._stopped.wait(BEAT_SECONDS)
