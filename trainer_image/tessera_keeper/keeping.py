"""What becomes of a snapshot once it lies in memory: sealed, copied to another node, stored.

Owns the threads in which that happens; they end when their part is through, whether or not the trainer lives. What
must stay true: a part that was stored is reported; whoever staged it hears of each end once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tessera_api.checkpoint import parse_prefix
from tessera_api.keys import Ring
from tessera_api.log import StoredObject
from tessera_api.messages import Part
from tessera_api.record import Count, Record
from tessera_keeper.part_file import PartRecord
from tessera_keeper.peer_stream import PeerLost
from tessera_keeper.peers import Address, copy_to
from tessera_keeper.sealing import seal
from tessera_keeper.shelf import Buffer, Kept, Shelf
from tessera_keeper.storage_drill import StorageDrill
from tessera_store import Store, StoreError

logger = logging.getLogger(__name__)


class Staged(Record):
    """A copy of tensors lies in memory: what it is and what is wanted of it. Times are seconds of the machine's
    monotonic clock, which all its processes share."""

    part: PartRecord
    """Without digests."""
    room: Count
    """Bytes before the first tensor."""
    store: bool
    """It is a checkpoint's: to be stored and reported."""
    remember: bool
    """It stays in memory, here and on another node."""
    keep: int = -1
    """Steps before it are no longer wanted."""
    began: float = 0.0
    stall: float = 0.0
    """How long training stood still for it."""


class Told(Protocol):
    """Whoever staged a part hears what became of it, from another thread."""

    def settled(self, alone: str) -> None:
        """It is sealed and, if it could be, copied: a later one may follow. `alone`: why it is not copied."""

    def stored(self, stored: StoredObject) -> None:
        """It is in the storage."""

    def failed(self, error: Exception) -> None:
        """It is not."""


class Keeper(Protocol):
    """What a trainer needs of the keeper of its node."""

    def lease(self, size: int, keep: int) -> Buffer:
        """See `Shelf.lease`."""

    def stage(self, order: Staged, buffer: Buffer, told: Told) -> None:
        """What was to be copied into `buffer` is there."""


@dataclass(frozen=True)
class Neighbour:
    """Where copies go."""

    address: Address
    ring: Ring


class Keeping:
    """See the module. `store` is opened when it is first needed; `report` hears of each part that was stored."""

    def __init__(self, store: Callable[[], Store], report: Callable[[Part], None], shelf: Shelf | None = None) -> None:
        self.shelf = shelf or Shelf()
        self._open_store, self._report = store, report
        self._store: Store | None = None
        self.drill = StorageDrill()
        self._neighbour: Neighbour | None = None

    def begin(self, folder: str, generation: int, neighbour: Neighbour | None) -> None:
        """A generation begins, from the parts in `folder` where it begins from memory."""
        self.shelf.begin(folder, generation)
        self._neighbour = neighbour

    def lease(self, size: int, keep: int) -> Buffer:
        """See `Shelf.lease`."""
        return self.shelf.lease(size, keep)

    def stage(self, order: Staged, buffer: Buffer, told: Told) -> None:
        """See `Keeper`. Returns at once."""
        progress = order.part.progress
        kept = self.shelf.put(order.part.name, progress.step, progress.position, buffer)
        threading.Thread(target=self._settle, args=(order, kept, told), daemon=True, name="settle").start()

    def _settle(self, order: Staged, kept: Kept, told: Told) -> None:
        alone = ""
        try:
            stored = seal(memoryview(kept.buffer.memory), order.room, order.part)
            self.shelf.sealed(kept, stored)
            if order.store:
                self.shelf.use(kept)
                threading.Thread(target=self._put, args=(order, kept, told), daemon=True, name="store").start()
            if order.remember:
                alone = self._copy(kept, order.keep)
        except Exception as error:
            logger.exception("%s came to nothing", order.part.name)
            told.failed(error)
        finally:
            self.shelf.done(kept)
        told.settled(alone)

    def _copy(self, kept: Kept, keep: int) -> str:
        """Why there is no copy; empty where there is one, or no other node."""
        neighbour = self._neighbour
        if neighbour is None:
            return ""
        try:
            copy_to(neighbour.address, neighbour.ring, kept, keep)
        except PeerLost as error:
            logger.warning("no copy of %s at %s: %s", kept.name, neighbour.address, error)
            return str(error)
        return ""

    def _put(self, order: Staged, kept: Kept, told: Told) -> None:
        assert kept.sealed is not None
        try:
            self.drill.put(self._opened(), kept.name, Path(f"/proc/self/fd/{kept.buffer.file}"))
            self._report(_report(order, kept.sealed))
            told.stored(kept.sealed)
        except Exception as error:
            if not isinstance(error, StoreError):
                logger.exception("%s was not stored", kept.name)
            told.failed(error)
        finally:
            self.shelf.done(kept)
            if not order.remember:
                self.shelf.drop(kept)

    def _opened(self) -> Store:
        self._store = self._store or self._open_store()
        return self._store


def _report(order: Staged, stored: StoredObject) -> Part:
    place = parse_prefix(stored.name)
    assert place is not None
    return Part(
        generation=place.generation,
        rank=order.part.rank,
        step=order.part.progress.step,
        position=order.part.progress.position,
        objects=(stored,),
        seconds=time.monotonic() - order.began,
        stall_seconds=order.stall,
    )
