"""The point that a generation begins from, as a training program sees it: its objects are told as they are asked for.

A world of thousands of ranks has as many objects; of these a rank reads a few. Those that came with the agent's
welcome are there at once; the others come from the agent, a page at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

ANSWER_SECONDS = 60.0
"""A coordinator that is just being restarted answers within this."""
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """An object that a rank has stored."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Holder:
    """A node that holds a part in memory, and where it is read."""

    node: str
    host: str
    port: int


@dataclass(frozen=True, eq=False)
class Resume:
    """Where every rank of this generation starts: a committed checkpoint, or a snapshot that nodes hold in memory."""

    step: int
    position: int
    objects: Sequence[Part]
    """In the order in which ranks committed them. Reading one may wait for the agent, and raise TimeoutError."""
    holders: Sequence[Holder] = ()
    """Of each object, in order; empty where they are in the storage."""


class Pieces:
    """The objects that are known so far. `ask(number)` has the agent say more, from that number on."""

    def __init__(self, count: int, ask: Callable[[int], None]) -> None:
        self._count, self._ask = count, ask
        self._known: dict[int, dict[str, Any]] = {}
        self._change = threading.Condition()

    def __len__(self) -> int:
        return self._count

    def told(self, first: int, pieces: Sequence[dict[str, Any]]) -> None:
        """The agent said these. From any thread."""
        with self._change:
            self._known |= {first + place: piece for place, piece in enumerate(pieces)}
            self._change.notify_all()

    def piece(self, number: int) -> dict[str, Any]:
        """One of them, asked for where it is not known. Raises IndexError, TimeoutError."""
        if not 0 <= number < self._count:
            raise IndexError(number)
        with self._change:
            if number not in self._known:
                self._ask(number)
            if not self._change.wait_for(lambda: number in self._known, ANSWER_SECONDS):
                raise TimeoutError(f"object {number} of {self._count} was not told within {ANSWER_SECONDS:.0f} s")
            return self._known[number]


class _Seen(Sequence[T], Generic[T]):
    """The pieces, each as something."""

    def __init__(self, pieces: Pieces, make: Callable[[dict[str, Any]], T]) -> None:
        self._pieces, self._make = pieces, make

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._make(self._pieces.piece(index + len(self) if index < 0 else index))

    def __iter__(self) -> Iterator[T]:
        return (self[number] for number in range(len(self)))


def resume_of(document: dict[str, Any] | None, ask: Callable[[int], None]) -> tuple[Resume | None, Pieces]:
    """What the agent's welcome says, and where its later answers go."""
    if document is None:
        return None, Pieces(0, ask)
    pieces = Pieces(int(document["pieces"]), ask)
    pieces.told(int(document["first"]), document["given"])
    objects = _Seen(pieces, lambda piece: Part(**piece["object"]))
    holders = _Seen(pieces, lambda piece: Holder(**piece["holder"])) if document["in_memory"] else ()
    return Resume(int(document["step"]), int(document["position"]), objects, holders), pieces
