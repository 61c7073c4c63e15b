"""What a node holds in memory: the parts of snapshots, its own ranks' and copies of another node's.

Owns the memory. What must stay true: a part that is held is never written to; memory is used again only once the step
that lay in it is no longer wanted, which the trainers say when they have agreed that a later one is whole everywhere;
whoever reads a part has it until it is through. All methods may be called from any thread.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera_api.checkpoint import parse_prefix
from tessera_api.kept_part import KeptPart
from tessera_api.log import StoredObject
from tessera_keeper.spare_memory import spare_memory


@dataclass(eq=False)
class Buffer:
    """Shared memory: a file without a name, so that another process maps it and a store reads it."""

    number: int
    size: int
    file: int
    memory: mmap.mmap

    @classmethod
    def made(cls, number: int, size: int) -> Buffer:
        """New memory of `size` bytes."""
        file = os.memfd_create("tessera-snapshot")
        os.ftruncate(file, size)
        return cls(number, size, file, mmap.mmap(file, size))

    def close(self) -> None:
        """The memory is given back once nobody else has it."""
        os.close(self.file)  # the map goes with the last view of it


@dataclass(eq=False)
class Kept:
    """One part: being written or copied until it is sealed."""

    name: str
    step: int
    position: int
    buffer: Buffer
    sealed: StoredObject | None = None
    users: int = 0
    unwanted: bool = False
    """Its memory is free as soon as nobody uses it."""


@dataclass
class _Books:
    parts: dict[str, Kept] = field(default_factory=dict)
    free: list[Buffer] = field(default_factory=list)
    generation: int = 0
    numbers: int = 0


class Shelf:
    """See the module. `spare` says how much memory may be taken."""

    def __init__(self, spare: Callable[[], int] = spare_memory) -> None:
        self._spare = spare
        self._lock = threading.Lock()
        self._books = _Books()

    def lease(self, size: int, keep: int) -> Buffer:
        """Memory to write `size` bytes to. Steps before `keep` are no longer wanted. Raises OSError."""
        with self._lock:
            self._forget(lambda part: part.step < keep)
            for buffer in self._books.free:
                if buffer.size == size:
                    self._books.free.remove(buffer)
                    return buffer
            self._books.numbers += 1
            return Buffer.made(self._books.numbers, size)

    def belongs(self, name: str) -> bool:
        """Whether a part is of the generation that runs: what an older one says of steps that are no longer wanted is
        not true of this one."""
        place = parse_prefix(name)
        return place is not None and place.generation == self._books.generation

    def room(self, size: int, keep: int) -> bool:
        """Whether a lease would bring nobody near the limit."""
        with self._lock:
            self._forget(lambda part: part.step < keep)
            return any(buffer.size == size for buffer in self._books.free) or self._spare() >= size

    def give_back(self, buffer: Buffer) -> None:
        """Leased memory in which nothing lies."""
        with self._lock:
            self._books.free.append(buffer)

    def put(self, name: str, step: int, position: int, buffer: Buffer) -> Kept:
        """A part lies in leased memory, and is used by the caller until `done`."""
        with self._lock:
            self._forget(lambda part: part.name == name)
            kept = Kept(name, step, position, buffer, users=1)
            self._books.parts[name] = kept
            return kept

    def done(self, part: Kept) -> None:
        """One that used a part is through with it."""
        with self._lock:
            part.users -= 1
            if part.unwanted and not part.users:
                self._books.free.append(part.buffer)

    def sealed(self, part: Kept, stored: StoredObject) -> None:
        """The part is whole: these are its bytes."""
        with self._lock:
            part.sealed = stored

    def drop(self, part: Kept) -> None:
        """The part is no longer wanted."""
        with self._lock:
            self._forget(lambda other: other is part)

    def begin(self, folder: str, generation: int) -> None:
        """A generation begins from the parts that lie in `folder`, or from none: nothing else is wanted any more. What
        was free is given back, since this generation's parts may have other sizes."""
        with self._lock:
            self._books.generation = generation
            self._forget(lambda part: not folder or not part.name.startswith(folder))
            for buffer in self._books.free:
                buffer.close()
            self._books.free.clear()

    @contextmanager
    def reading(self, name: str) -> Iterator[Kept]:
        """A whole part, for as long as the block lasts. Raises KeyError where there is none of this name."""
        with self._lock:
            part = self._books.parts[name]
            if part.sealed is None:
                raise KeyError(name)
            part.users += 1
        try:
            yield part
        finally:
            self.done(part)

    def use(self, part: Kept) -> None:
        """One more uses the part, until `done`."""
        with self._lock:
            part.users += 1

    def kept(self) -> tuple[KeptPart, ...]:
        """The whole parts, newest step first."""
        with self._lock:
            whole = [
                KeptPart(position=part.position, object=part.sealed)
                for part in sorted(self._books.parts.values(), key=lambda part: -part.step)
                if part.sealed is not None
            ]
        return tuple(whole)

    def _forget(self, which: Callable[[Kept], bool]) -> None:
        for part in [part for part in self._books.parts.values() if which(part)]:
            del self._books.parts[part.name]
            part.unwanted = True
            if not part.users:
                self._books.free.append(part.buffer)
