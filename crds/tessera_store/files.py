"""A directory as an object store.

A write goes to a temporary file under the root's `PARTS` folder, is synced, and enters its place by one link (create:
exclusive) or rename (put); then the folder is synced. Reads see whole objects only. A call takes as long as the kernel
does: a frozen file system cannot be bounded from inside the process. Links to folders are not followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tessera_store.errors import ObjectExists, ObjectMissing, StoreRefused, StoreUnavailable
from tessera_store.file_errors import reading, writing
from tessera_store.names import PARTS, check_name, check_prefix
from tessera_store.store import ObjectInfo

FOLDER_RACES = 10
"""How often a folder is made anew when a deletion beside us takes it away before the object is in it."""

ORPHAN_AGE_S = 60.0
"""A part that is older and locked by nobody was left by a killed process. (Younger: perhaps not locked yet.)"""

COPY_BYTES = 1 << 20


class FileStore:
    """Objects as files below `root`, which is made by the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept = False

    @property
    def uri(self) -> str:
        return self._root.as_uri()

    def create(self, name: str, data: bytes) -> None:
        with self._part(check_name(name), data) as part:
            try:
                self._enter(name, lambda target: os.link(part, target))
            except FileExistsError as error:
                raise ObjectExists(f"object {name} exists already") from error

    def put(self, name: str, data: bytes | Path) -> None:
        with self._part(check_name(name), data) as part:
            self._enter(name, lambda target: os.replace(part, target))

    def get(self, name: str) -> bytes:
        with reading(name):
            return self._path(name).read_bytes()

    def get_range(self, name: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"range [{start}, +{length}) of {name} is negative")
        with reading(name), open(self._path(name), "rb") as file:
            file.seek(start)
            return file.read(length)

    def download(self, name: str, path: Path) -> None:
        with reading(name), open(self._path(name), "rb") as source:
            part = path.with_name(f".{uuid.uuid4().hex}.part")
            with writing(str(path)):
                try:
                    with open(part, "xb") as target:
                        shutil.copyfileobj(source, target, COPY_BYTES)
                        target.flush()
                        os.fsync(target.fileno())
                    os.replace(part, path)
                    _sync_folder(path.parent)
                finally:
                    part.unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder, _, _ = check_prefix(prefix).rpartition("/")
        return self._walk(folder, prefix, frozenset())

    def delete(self, name: str) -> None:
        path = self._path(name)
        with writing(name):
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
                _sync_folder(path.parent)
            self._prune(path.parent)

    def size(self, name: str) -> int:
        return self.info(name).size

    def info(self, name: str) -> ObjectInfo:
        with reading(name):
            status = self._path(name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissing(f"there is no object {name}: a folder has this name")
        return ObjectInfo(name, status.st_size, status.st_mtime)

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    @contextmanager
    def _part(self, name: str, data: bytes | Path) -> Iterator[Path]:
        """A synced temporary file that holds `data`; gone afterwards, whether it was moved or not.

        Its lock says that its writer lives; it goes with the process, however that ends.
        """
        parts = self._root / PARTS
        part = parts / uuid.uuid4().hex
        with writing(name):
            parts.mkdir(parents=True, exist_ok=True)
            self._sweep(parts)
            file = open(part, "xb")  # noqa: SIM115 - open until the caller is done, for the sake of the lock
        try:
            with file:
                with writing(name):
                    fcntl.flock(file, fcntl.LOCK_EX)
                    _fill(part, data)
                yield part
        finally:
            part.unlink(missing_ok=True)

    def _sweep(self, parts: Path) -> None:
        """Once per store: removes the parts that killed processes left."""
        if self._swept:
            return
        self._swept = True
        for entry in _entries(parts):
            with suppress(FileNotFoundError, BlockingIOError), open(entry.path, "rb") as file:
                if time.time() - os.fstat(file.fileno()).st_mtime > ORPHAN_AGE_S:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)

    def _enter(self, name: str, move: Callable[[Path], None]) -> None:
        """Moves a part into its place. Raises FileExistsError from an exclusive move."""
        target = self._path(name)
        for _ in range(FOLDER_RACES):
            with suppress(FileNotFoundError), writing(name):  # the folder may be pruned beside us before the move
                _make_folder(target.parent)
                move(target)
                _sync_folder(target.parent)
                return
        raise StoreUnavailable(f"cannot write {name}: its folder was removed {FOLDER_RACES} times in between")

    def _prune(self, folder: Path) -> None:
        """Removes folders that a deletion left empty, up to the root: an object store has none."""
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass  # another deletion was faster; its parent may still be ours to remove
            except OSError:
                return  # not empty
            folder = folder.parent

    def _walk(self, folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[ObjectInfo]:
        """What lies below `folder` and begins with `prefix`; nothing else is opened or asked for. Links to folders are
        followed, but for one that leads back to a folder `above` itself (device and inode), where nothing new is."""
        with reading(folder or "."):
            entries = _entries(self._root / folder)
            here = above | _identity(self._root / folder)
        if here == above and above:
            return
        for key, entry in sorted((entry.name + "/" * _is_folder(entry), entry) for entry in entries):
            name = f"{folder}/{key}" if folder else key
            if name == f"{PARTS}/" or not name.startswith(prefix):
                continue
            if _is_folder(entry):
                yield from self._walk(name[:-1], prefix, here)
            elif (info := _info(name, entry)) is not None:
                yield info


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, which is refused where it is read
        return False


def _identity(folder: Path) -> frozenset[tuple[int, int]]:
    """Device and inode of a folder; nothing if it is gone."""
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    return frozenset({(status.st_dev, status.st_ino)})


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []  # no object has this prefix


def _info(name: str, entry: os.DirEntry[str]) -> ObjectInfo | None:
    """The file's facts, or None for what is no file or is gone since the folder was read."""
    with reading(name):
        try:
            if not entry.is_file():
                return None
            status = entry.stat()
        except FileNotFoundError:
            return None
    try:
        check_name(name)
    except ValueError as error:
        raise StoreRefused(f"{error}; rename the file") from error
    return ObjectInfo(name, status.st_size, status.st_mtime)


def _fill(part: Path, data: bytes | Path) -> None:
    with open(part, "r+b") as file:
        if isinstance(data, Path):
            with open(data, "rb") as source:
                shutil.copyfileobj(source, file, COPY_BYTES)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Makes a folder and syncs the name of each new level in the level above."""
    missing = [level for level in (folder, *folder.parents) if not level.is_dir()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # says of a folder what callers would take for the object
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder)) from error
    for level in missing:
        _sync_folder(level.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable; a folder pruned meanwhile has none."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
