"""Sources: which files a build reads, and their bytes.

A source is a folder or a single file of an object store; its files are taken in order of name. What must stay true:
the list depends on names and content alone, never on times, inodes or the order of a listing.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from tessera_api.dataset_build import Content, Source
from tessera_data.refusal import Refused
from tessera_store import ObjectInfo, ObjectMissing, Store, open_store

READ_BYTES = 8 << 20
BUFFER_BYTES = 1 << 20
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Below the source's address; the last part of it, where that is a file."""
    size: int
    """Bytes."""
    sha256: str
    modified: float | None = None
    """Unix seconds by the store's clock, before the digest was taken; None where the digest alone is known."""


@dataclass(frozen=True)
class Span:
    """A part of a file. Text: all of it. JSONL: the lines that start in bytes [start, stop). Parquet: row groups."""

    file: SourceFile
    start: int
    stop: int


class SourceFolder:
    """The files of one source, readable."""

    def __init__(self, source: Source, content: Content = Content.TEXT) -> None:
        self.source, self.content = source, content
        self._store = _open(source.uri, source)

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields or columns that are read."""
        return self.source.conversation_columns if self.content is Content.CHAT else (self.source.text_column,)

    def files(self) -> list[ObjectInfo]:
        """What the source's patterns match, in order of name. Refused if that is nothing, or compressed."""
        found = list(self._store.list())
        if found:
            matches = [matcher(pattern) for pattern in self.source.include]
            files = [info for info in found if any(match(info.name) for match in matches)]
        else:
            files = self._single()
        if not files:
            patterns = ", ".join(self.source.include)
            raise Refused(
                f"source {self.source.name}",
                f"no file below {self.source.uri} matches {patterns} ({len(found)} files are there)",
                "correct uri or include",
            )
        for info in files:
            if info.name.endswith(COMPRESSED):
                raise Refused(
                    f"source {self.source.name}", f"{info.name} is compressed", "unpack it, or narrow include"
                )
        return files

    def _single(self) -> list[ObjectInfo]:
        """The source's address as a file, if it is one."""
        folder, name = parent_and_name(self.source.uri)
        try:
            store = _open(folder, self.source)
            info = store.info(name)
        except (ObjectMissing, Refused, ValueError):
            return []
        self._store = store
        return [info]

    def digest(self, name: str) -> str:
        """sha256 of a file."""
        sha256 = hashlib.sha256()
        start = 0
        while data := self._store.get_range(name, start, READ_BYTES):
            sha256.update(data)
            start += len(data)
        return sha256.hexdigest()

    def require_unchanged(self, file: SourceFile) -> None:
        """Refused if size or time of the file are no longer those of the plan."""
        now = self._store.info(file.name)
        if now.size != file.size or file.modified not in (None, now.modified):
            raise self.changed(file)

    def changed(self, file: SourceFile) -> Refused:
        """That the file is no longer the one that the fingerprint stands for."""
        return Refused(
            f"source {self.source.name}",
            f"{file.name} changed during the build",
            "build again once nobody writes to it",
        )

    def open(self, file: SourceFile) -> io.BufferedReader:
        """A seekable file; its reads are ranges of BUFFER_BYTES and more."""
        return io.BufferedReader(_Ranges(self._store, file.name, file.size), BUFFER_BYTES)


def open_folder(source: Source, files: Sequence[SourceFile], content: Content = Content.TEXT) -> SourceFolder:
    """The folder of a source whose files are known already."""
    folder = SourceFolder(source, content)
    if [file.name for file in files] == [parent_and_name(source.uri)[1]]:
        folder.files()  # it may be a single file: then its store is the folder above
    return folder


class _Ranges(io.RawIOBase):
    """An object as a seekable file."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        self._store, self._name, self._size = store, name, size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._store.get_range(self._name, self._place, len(view)) if self._place < self._size else b""
        view[: len(data)] = data
        self._place += len(data)
        return len(data)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a name matches: `*` and `?` inside one part, `**/` any folders or none, a last `**` everything below."""
    expression = re.compile("".join(_translated(pattern)) + r"\Z", re.DOTALL)
    return lambda name: expression.match(name) is not None


def _translated(pattern: str) -> list[str]:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return [words.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern)]


def parent_and_name(uri: str) -> tuple[str, str]:
    """The address of the store that holds the object at `uri`, and the object's name in it."""
    folder, _, name = uri.rstrip("/").rpartition("/")
    return folder, unquote(name)


def pinned_file(uri: str, sha256: str, what: str, field: str) -> bytes:
    """The file at `uri`, which is `what` of the build, and whose digest stands in its `field`. Refused if it has
    another one; raises tessera_store's errors."""
    folder, name = parent_and_name(uri)
    data = open_store(folder).get(name)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise Refused(
            f"{what} {uri}",
            f"its sha256 is {found}, {field} says {sha256}",
            "restore the file, or correct the digest if the new one is meant",
        )
    return data


def _open(uri: str, source: Source) -> Store:
    try:
        return open_store(uri)
    except ValueError as error:
        raise Refused(f"source {source.name}", str(error), "correct uri") from error
