"""Saving a rank's part of a checkpoint in the background, at most one at a time.

A save stops training for one copy into host memory. Hashing and writing happen in a thread of their own; the part then
goes to `on_part`, and a checkpoint exists once the log's commit entry names all ranks' parts. What must stay true:
an object name is written once (it carries term, generation and nonce); a process killed at any line leaves only bytes
that no entry names; a failure reaches the caller, by `Save.wait` or by the next `save`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.log import StoredObject
from tessera_store import Store, StoreError
from tessera_trainer.part_file import PartRecord, Progress
from tessera_trainer.shards import Shard
from tessera_trainer.snapshot import Snapshot


class CheckpointFailed(Exception):
    """A part could not be written; the cause is chained."""

    @property
    def by_storage(self) -> bool:
        """Whether the storage did not take it: then nothing is wrong with this program."""
        return isinstance(self.__cause__, StoreError)


class Save:
    """One part on its way. `stall_s` is how long the training thread stood still for it (copy, and wait before)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stall_s = 0.0
        self.waited_s = 0.0
        """The share of the stall that waited for an earlier save."""
        self._result: Future[StoredObject] = Future()

    @property
    def done(self) -> bool:
        """Whether it is written or has failed."""
        return self._result.done()

    def wait(self, limit_s: float) -> StoredObject:
        """The written object. Raises CheckpointFailed where it was not written, TimeoutError at the limit."""
        try:
            return self._result.result(limit_s)
        except FutureTimeout as error:
            if not self._result.done():
                raise TimeoutError(f"{self.name} is not written after {limit_s} s more") from error
            raise CheckpointFailed(f"{self.name} was not written: {error}") from error
        except Exception as error:  # whatever ended the thread; the caller decides
            raise CheckpointFailed(f"{self.name} was not written: {error}") from error

    def _run(self, write: Callable[[], StoredObject]) -> None:
        try:
            self._result.set_result(write())
        except Exception as error:  # noqa: BLE001 - the thread's edge: `wait` raises it
            self._result.set_exception(error)


class CheckpointWriter:
    """Writes this rank's parts to `store`. A save that comes while one is in flight waits for it, at most `limit_s`."""

    def __init__(self, store: Store, *, rank: int, ranks: int, limit_s: float) -> None:
        self._store, self._rank, self._ranks, self._limit_s = store, rank, ranks, limit_s
        self._memory: Snapshot | None = None
        self._last: Save | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is in flight: a new one would wait. Ranks differ in it; agree before acting on it."""
        return self._last is not None and not self._last.done

    def save(
        self,
        shards: Sequence[Shard],
        progress: Progress,
        prefix: CheckpointPrefix,
        on_part: Callable[[StoredObject, float], None] = lambda part, stall_s: None,
    ) -> Save:
        """Copies the shards now and writes them in the background; `on_part` is called there once they are safe, with
        the seconds that training stood still.

        Raises CheckpointFailed where the save before this one failed, TimeoutError where it does not end.
        """
        start = time.monotonic()
        self.drain(self._limit_s)
        name = part_name(prefix, self._rank, self._ranks)
        save, part = (
            Save(name),
            PartRecord(name=name, rank=self._rank, ranks=self._ranks, progress=progress, tensors=()),
        )
        save.waited_s = time.monotonic() - start
        memory = self._memory_for(shards, part)
        memory.take(shards)
        save.stall_s = time.monotonic() - start

        def write() -> StoredObject:
            stored = memory.seal(part)
            self._store.put(name, memory.path)
            on_part(stored, save.stall_s)
            return stored

        self._last = save
        threading.Thread(target=save._run, args=(write,), name="checkpoint", daemon=True).start()
        return save

    def check(self) -> None:
        """Raises CheckpointFailed where the last save has failed meanwhile, without waiting for it."""
        if self._last is not None and self._last.done:
            self.drain(0.0)

    def drain(self, limit_s: float) -> bool:
        """Waits until nothing is in flight. Raises what the last save failed with, once, and TimeoutError. Whether a
        save was written since the last call."""
        last = self._last
        if last is None:
            return False
        try:
            last.wait(limit_s)
        except CheckpointFailed:
            self._last = None
            raise
        self._last = None
        return True

    def _memory_for(self, shards: Sequence[Shard], part: PartRecord) -> Snapshot:
        if self._memory is None or not self._memory.fits(shards, part):
            if self._memory is not None:
                self._memory.close()
            self._memory = Snapshot(shards, part)
        return self._memory
