"""Workspace: the folder in which one build keeps what it has finished so far.

A file is there whole or not at all (temporary, sync, rename), and a task's JSON record is its marker: it is written
last, and only what a record stands for is believed. So a build may be killed at any instant, and tasks may run in any
order and in different processes over one folder; two that do the same task write the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tessera_store import ObjectMissing, Store


class Workspace:
    """Files below `root`, by flat names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where a file lies that is to be read."""
        return self.root / name

    def look(self) -> None:
        """Take notice of what others have finished."""

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A new file that takes its name when the block ends well, and leaves nothing otherwise. Its bytes are durable
        then; its name is with the next record, which syncs the folder for all names at once."""
        part = self.root / f".{uuid.uuid4().hex}.part"
        try:
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.root / name)
        finally:
            part.unlink(missing_ok=True)

    def write_record(self, task: str, record: object) -> None:
        """Says that a task is done, and what it found."""
        with self.writing(f"{task}.json") as file:
            file.write(json.dumps(record).encode())
        self._sync()

    def done(self, task: str) -> bool:
        """Whether a task is done."""
        return (self.root / f"{task}.json").exists()

    def record(self, task: str) -> Any:
        """What a task found, which must be done."""
        return json.loads(self.path(f"{task}.json").read_bytes())

    def write_rows(self, name: str, rows: NDArray[Any]) -> None:
        """Writes an array of one dimension; its type is known to the reader."""
        with self.writing(name) as file:
            file.write(np.ascontiguousarray(rows).data)

    def rows(self, name: str, dtype: Any) -> NDArray[Any]:
        """An array, mapped read-only."""
        path = self.path(name)
        if path.stat().st_size == 0:
            return np.zeros(0, dtype)
        return np.memmap(path, dtype, "r")

    def sweep(self) -> None:
        """Removes what killed writers left. Only while no other process works here."""
        for part in self.root.glob(".*.part"):
            part.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder: what it held is published."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _sync(self) -> None:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class SharedWorkspace(Workspace):
    """A workspace whose files others have, too: what a record stands for is in an object store before the record is,
    and is fetched from there when it is read."""

    def __init__(self, root: Path, store: Store, prefix: str) -> None:
        super().__init__(root)
        self._store, self._prefix = store, prefix
        self._there: set[str] = set()
        self._kept: list[str] = []
        """Files that no record stands for yet."""

    def look(self) -> None:
        """One listing."""
        length = len(self._prefix)
        self._there = {info.name[length:] for info in self._store.list(self._prefix)}

    def path(self, name: str) -> Path:
        """Where a file lies; fetched, if another worker has written it."""
        path = self.root / name
        if not path.exists():
            with suppress(ObjectMissing):  # it is new
                self._store.download(f"{self._prefix}{name}", path)
        return path

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """As without others; they see it with the next record."""
        with super().writing(name) as file:
            yield file
        self._kept.append(name)

    def write_record(self, task: str, record: object) -> None:
        """The files since the last record, then the record, for all to see."""
        self._share()
        super().write_record(task, record)
        self._share()

    def done(self, task: str) -> bool:
        """Whether a task is done, by whomever, as of the last look."""
        return super().done(task) or f"{task}.json" in self._there

    def remove(self) -> None:
        """Here, and in the store."""
        super().remove()
        for info in list(self._store.list(self._prefix)):
            self._store.delete(info.name)

    def _share(self) -> None:
        kept, self._kept = self._kept, []
        for name in kept:
            if (path := self.root / name).exists():
                self._store.put(f"{self._prefix}{name}", path)
