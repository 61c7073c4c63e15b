"""Saving a rank's part of a step: into memory that the keeper of the node owns, and from there into the storage.

A save stops training for one copy into host memory. Hashing, copying to another node and storing are the keeper's,
which goes on without this process; a checkpoint exists once the log's commit entry names all ranks' parts. What must
stay true: an object name is written once (it carries term, generation and nonce); a process killed at any line leaves
only bytes that no entry names; a failure reaches the caller, by `Save.wait` or by the next `save`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.log import StoredObject
from tessera_keeper.keeping import Keeper, Staged
from tessera_keeper.part_file import PartRecord, Progress
from tessera_keeper.spare_memory import spare_memory
from tessera_store import StoreError
from tessera_trainer.page_locks import PageLocks
from tessera_trainer.shards import Shard
from tessera_trainer.snapshot import Layout

COPIES_IN_MEMORY = 5
"""How often a node has its own part in memory at most, counted with another node's of that size: what is whole, what is
being taken, what is still on its way to the storage; and of the other what is whole and what is coming."""


class CheckpointFailed(Exception):
    """A part could not be written; the cause is chained."""

    @property
    def by_storage(self) -> bool:
        """Whether the storage did not take it: then nothing is wrong with this program."""
        return isinstance(self.__cause__, StoreError)


class Save:
    """One part on its way. `stall_s` is how long the training thread stood still for it (copy, and wait before).
    Implements `keeping.Told`."""

    def __init__(self, name: str, step: int) -> None:
        self.name, self.step = name, step
        self.stall_s = 0.0
        self.waited_s = 0.0
        """The share of the stall that waited for an earlier save."""
        self.alone = ""
        """Why no other node holds it, once it is settled."""
        self._result: Future[StoredObject] = Future()
        self._settled = threading.Event()

    def settled(self, alone: str) -> None:
        """It is whole in memory, and copied if it could be."""
        self.alone = alone
        self._settled.set()

    def stored(self, stored: StoredObject) -> None:
        """It is in the storage."""
        self._result.set_result(stored)

    def failed(self, error: Exception) -> None:
        """It is not."""
        if not self._result.done():
            self._result.set_exception(error)

    @property
    def done(self) -> bool:
        """Whether it is stored or has failed."""
        return self._result.done()

    def wait_settled(self, limit_s: float) -> bool:
        """Whether it is settled, waited for at most `limit_s`."""
        return self._settled.wait(limit_s)

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


@dataclass(frozen=True)
class Ranks:
    """Which part is this rank's."""

    rank: int
    ranks: int


class CheckpointWriter:
    """Stages this rank's parts. At most one is on its way to the storage, and one to memory; a save that comes before
    waits for the earlier one, at most `limit_s`. With `remember`, each stays in memory until a later one is whole
    everywhere."""

    def __init__(
        self,
        keeper: Keeper,
        place: Ranks,
        *,
        limit_s: float,
        remember: bool = False,
        spare: Callable[[], int] = spare_memory,
    ) -> None:
        self._keeper, self._place, self._limit_s, self.remember = keeper, place, limit_s, remember
        self._spare = spare
        self._layout: Layout | None = None
        self._locks = PageLocks()
        self._storing: Save | None = None
        self._newest: Save | None = None
        self._whole = -1
        """The step that all ranks have agreed to be whole in memory everywhere, or to have begun from."""

    def begin_from(self, step: int) -> None:
        """This generation begins from the checkpoint or snapshot of `step`."""
        self._whole = step

    @property
    def busy(self) -> bool:
        """Whether a part is on its way to the storage: a new one would wait. Ranks differ in it; agree before acting
        on it."""
        return self._storing is not None and not self._storing.done

    def settled(self, limit_s: float) -> bool:
        """Whether the last part is whole in memory, waited for at most `limit_s`. Ranks differ in it. Raises
        CheckpointFailed where it came to nothing, and the storage did not do that."""
        if self._newest is None:
            return True
        settled = self._newest.wait_settled(limit_s)
        if settled and self._newest.done:
            try:
                self._newest.wait(0.0)
            except CheckpointFailed as failed:
                if not failed.by_storage:
                    raise
        return settled

    @property
    def alone(self) -> str:
        """Why no other node holds the last part, as far as is known."""
        return self._newest.alone if self._newest is not None else ""

    def has_room(self, shards: Sequence[Shard]) -> bool:
        """Whether this node can hold the parts of several steps, and as many of another node's."""
        mine = sum(shard.local.numel() * shard.local.element_size() for shard in shards)
        return self._spare() >= COPIES_IN_MEMORY * mine

    def save(
        self,
        shards: Sequence[Shard],
        progress: Progress,
        prefix: CheckpointPrefix,
        *,
        store: bool = True,
        whole: bool = False,
    ) -> Save:
        """Copies the shards now; all else happens in the background. Without `store` it stays in memory alone. `whole`:
        all ranks have agreed that the last part is whole everywhere, so that those before it are no longer wanted.

        Raises CheckpointFailed where the last one for the storage failed, TimeoutError where it does not end,
        KeeperGone.
        """
        began = time.monotonic()
        if store:
            self.drain(self._limit_s)
        if not self.settled(max(0.0, began + self._limit_s - time.monotonic())):
            raise TimeoutError(f"the part before that of step {progress.step} does not come to an end")
        self._whole = self._newest.step if self._newest is not None and whole else self._whole
        part = self._part(prefix, progress)
        save = Save(part.name, progress.step)
        save.waited_s = time.monotonic() - began
        if self._layout is None or not self._layout.fits(shards, part):
            self._layout = Layout(shards, part)
        layout = self._layout
        buffer = self._keeper.lease(layout.size, self._whole)
        if any(shard.local.is_cuda for shard in shards):
            self._locks.lock(buffer)
        layout.copy(shards, buffer.memory)
        save.stall_s = time.monotonic() - began
        order = Staged(
            part=part.model_copy(update={"tensors": layout.tensors}),
            room=layout.room,
            store=store,
            remember=self.remember,
            keep=self._whole,
            began=began,
            stall=save.stall_s,
        )
        self._newest = save
        self._storing = save if store else self._storing
        self._keeper.stage(order, buffer, save)
        return save

    def check(self) -> None:
        """Raises CheckpointFailed where the last part has failed meanwhile, without waiting for it."""
        if self._storing is not None and self._storing.done:
            self.drain(0.0)

    def drain(self, limit_s: float) -> bool:
        """Waits until nothing is on its way to the storage. Raises what the last part failed with, once, and
        TimeoutError. Whether one was stored since the last call."""
        last = self._storing
        if last is None:
            return False
        try:
            last.wait(limit_s)
        except CheckpointFailed:
            self._storing = None
            raise
        self._storing = None
        return True

    def _part(self, prefix: CheckpointPrefix, progress: Progress) -> PartRecord:
        rank, ranks = self._place.rank, self._place.ranks
        return PartRecord(name=part_name(prefix, rank, ranks), rank=rank, ranks=ranks, progress=progress, tensors=())
