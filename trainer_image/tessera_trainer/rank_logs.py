"""The logs of a node's ranks: shown, kept in the run's storage, and kept small.

Owns `logs/NODE` of the run directory below its numbered folders, one a generation. Trainers append to their files and
know nothing of this. What must stay true: a log never holds up a trainer or the agent; no file grows beyond
`FILE_BYTES` twice, whatever a trainer prints; what is shown is bounded by the second, and what is left out is said.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tessera_store import Store, StoreError

logger = logging.getLogger(__name__)

FILE_BYTES = 8 << 20
"""A log that is longer is moved to `.old`, in the place of an older one."""
SHOWN_BYTES = 64 << 10
"""Of all ranks, in one look."""
STORED_BYTES = 256 << 10
"""The end of a log, as the storage has it."""
GENERATIONS = 20
"""So many folders stay on the node's disk."""
LOOK_SECONDS, STORE_SECONDS = 1.0, 120.0


@dataclass
class _Log:
    """How far a file is known."""

    shown: int = 0
    stored: tuple[int, int] = (0, 0)
    """(length, modification in ns) when its end was stored."""


@dataclass
class RankLogs:
    """`folder`: the node's logs. `show`: takes a line; None: nobody wants to see them. `open_store`: of what takes the
    logs' ends, under `prefix`; None: they lie where everybody can read them."""

    folder: Path
    show: Callable[[str], None] | None = None
    open_store: Callable[[], Store] | None = None
    prefix: str = "logs/"
    _logs: dict[Path, _Log] = field(default_factory=dict)
    _store: Store | None = None
    _newest: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """Look from now on, in a thread."""
        self._thread = threading.Thread(target=self._watch, name="rank-logs", daemon=True)
        self._thread.start()

    def end(self, limit: float = 5.0) -> None:
        """A last look; what is not stored within `limit` seconds is not."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(limit)

    def _watch(self) -> None:
        looks = 0
        while True:
            ended = self._ended.wait(LOOK_SECONDS)
            looks += 1
            changed = self.look()
            if ended or changed or looks % int(STORE_SECONDS / LOOK_SECONDS) == 0:
                self.keep()
            if ended:
                return

    def look(self) -> bool:
        """Show what is new, shorten what is long, delete what is old; whether a generation has begun since."""
        numbers = sorted(int(each.name) for each in self._folders())
        changed = bool(numbers) and numbers[-1] != self._newest
        for number in numbers[-2:]:  # the one before may have had its last words after the look before
            for path in sorted((self.folder / str(number)).glob("rank-*.log")):
                self._look_at(path, number)
        for number in numbers[:-GENERATIONS]:
            shutil.rmtree(self.folder / str(number), ignore_errors=True)
            self._logs = {path: log for path, log in self._logs.items() if path.parent.name != str(number)}
        self._newest = numbers[-1] if numbers else 0
        return changed

    def keep(self) -> None:
        """Store the end of every log that has changed."""
        if self.open_store is None:
            return
        # Here, not at the beginning: it takes imports that the agent need not wait for.
        self._store = self._store or self.open_store()
        for path, log in list(self._logs.items()):
            try:
                known = path.stat()
                if (known.st_size, known.st_mtime_ns) != log.stored:
                    name = f"{self.prefix}{self.folder.name}/{path.parent.name}/{path.name}"
                    self._store.put(name, _end(path, STORED_BYTES))
                    log.stored = (known.st_size, known.st_mtime_ns)
            except FileNotFoundError:
                continue
            except (OSError, StoreError) as error:
                logger.warning("the log %s is not stored: %s", path.name, error)
                return

    def _folders(self) -> list[Path]:
        try:
            return [each for each in self.folder.iterdir() if each.name.isdecimal()]
        except FileNotFoundError:
            return []

    def _look_at(self, path: Path, generation: int) -> None:
        log = self._logs.setdefault(path, _Log())
        try:
            size = path.stat().st_size
            if self.show is not None and size > log.shown:
                log.shown = self._show(path, log.shown, size, f"[{generation}/{path.stem.removeprefix('rank-')}]")
            if size > FILE_BYTES:
                shutil.copyfile(path, path.with_suffix(".old"))
                os.truncate(path, 0)  # whoever appends to it goes on at the new end
                log.shown = 0
        except OSError as error:
            logger.warning("the log %s is not shown: %s", path.name, error)

    def _show(self, path: Path, start: int, size: int, who: str) -> int:
        """Whole lines from `start` on; returns up to where."""
        assert self.show is not None
        left_out = max(0, size - start - SHOWN_BYTES)
        with path.open("rb") as file:
            file.seek(start + left_out)
            data = file.read(size - start - left_out)
        whole = data.rfind(b"\n") + 1 or (len(data) if len(data) >= SHOWN_BYTES else 0)
        if left_out and whole:
            self.show(f"{who} {left_out} bytes are left out here, and stand in {path}")
        for line in data[:whole].decode("utf-8", "replace").splitlines():
            self.show(f"{who} {_plain(line)}")
        return start + left_out + whole


def _plain(line: str) -> str:
    """Without what a terminal would obey."""
    return "".join(sign if sign.isprintable() or sign == "\t" else "?" for sign in line)


def _end(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - length))
        return file.read(length)
