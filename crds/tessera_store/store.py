"""The one face that every object store has (files, S3).

What must stay true of each adapter: an object is there whole or not at all; `create` succeeds for exactly one of any
number of writers of a name, ever; after a write has returned, the object survives a crash of the machine. All calls
block, may come from any thread, and raise only `tessera_store.errors` (ValueError for a name that cannot be).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing."""

    name: str
    size: int
    """Bytes."""
    modified: float
    """Unix seconds, by the store's clock."""


class Store(Protocol):
    """Objects below one root. Names: see `tessera_store.names`."""

    @property
    def uri(self) -> str:
        """What the store was opened on, for messages."""

    def create(self, name: str, data: bytes) -> None:
        """Writes an object that must not exist. Raises ObjectExists. On StoreUnavailable it may yet have happened."""

    def put(self, name: str, data: bytes | Path) -> None:
        """Writes an object or replaces it, from memory or from a file, in one step for every reader."""

    def get(self, name: str) -> bytes:
        """All bytes of an object. Raises ObjectMissing."""

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length), fewer where the object ends before. Raises ObjectMissing."""

    def download(self, name: str, path: Path) -> None:
        """Copies an object to a local file, which appears whole or not at all. Raises ObjectMissing."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The objects whose names begin with `prefix`, in order of name (by code point)."""

    def delete(self, name: str) -> None:
        """Removes an object; that there is none is success."""

    def size(self, name: str) -> int:
        """An object's length in bytes. Raises ObjectMissing."""

    def info(self, name: str) -> ObjectInfo:
        """What a listing says of this object, asked of it alone. Raises ObjectMissing."""
