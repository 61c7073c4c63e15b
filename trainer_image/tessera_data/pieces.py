"""Pieces: where a dataset's bytes come from, in spans small enough to be fetched and mapped.

On a local disk a piece is a whole shard, mapped where it lies. From a store it is PIECE_BYTES of one, fetched into a
cache folder (whole or not at all: temporary file, rename) by a few threads, ahead of need where the caller says what
comes. The order is known for ever, so nothing is guessed. There is no lock file, no shared memory, no talk between
ranks: processes that share a cache folder may fetch a piece twice and write the same bytes. The cache is not swept: it
grows to the dataset.
"""

from __future__ import annotations

import mmap
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tessera_data.shards import BLOCK_BYTES, CorruptShard, ShardInfo
from tessera_store import ObjectMissing, Store

PIECE_BYTES = 4 * BLOCK_BYTES
FETCHERS = 4
MOST_MAPS = 4096
"""Kept open at a time; the kernel's usual limit is 65,530 for a process."""


class Pieces(Protocol):
    """The objects of one dataset. All calls raise tessera_store's errors, and CorruptShard where an object is short."""

    piece_bytes: int | None
    """Length of every piece but a shard's last; None: a piece is a whole shard."""

    def index(self, shard: ShardInfo) -> bytes:
        """The shard's index object."""

    def map(self, shard: ShardInfo, piece: int, length: int) -> memoryview:
        """The bytes of a piece, `length` by the manifest. Blocks until they are here."""

    def discard(self, shard: ShardInfo, piece: int) -> bool:
        """The piece is not what it has to be: forget this copy. Whether there is another to be had."""

    def expect(self, wanted: Iterable[tuple[ShardInfo, int, int]]) -> None:
        """(shard, piece, length) that will be mapped soon, in this order. Never blocks for long, never raises."""

    def close(self) -> None:
        """Ends the threads; what was mapped stays valid."""


class LocalPieces:
    """Objects as files below `root`."""

    piece_bytes: int | None = None

    def __init__(self, root: Path) -> None:
        self._root = root
        self._maps = Maps()

    def index(self, shard: ShardInfo) -> bytes:
        return _read(self._root, shard.index_name)

    def map(self, shard: ShardInfo, piece: int, length: int) -> memoryview:
        return self._maps.get(self._root / shard.tokens_name, length, shard.tokens_name)

    def discard(self, shard: ShardInfo, piece: int) -> bool:
        return False

    def expect(self, wanted: Iterable[tuple[ShardInfo, int, int]]) -> None:
        """The kernel reads ahead inside a block; nothing is to be done."""

    def close(self) -> None:
        """Nothing runs."""


class FetchedPieces:
    """Objects of a store, in a local cache folder."""

    piece_bytes: int | None = PIECE_BYTES

    def __init__(self, store: Store, cache: Path) -> None:
        self._store = store
        self._cache = cache
        self._maps = Maps()
        self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._coming: dict[Path, Future[None]] = {}

    def index(self, shard: ShardInfo) -> bytes:
        path = self._cache / f"{shard.index_sha256}.index"
        self._fetch(path, lambda: self._store.get(shard.index_name)).result()
        return path.read_bytes()

    def map(self, shard: ShardInfo, piece: int, length: int) -> memoryview:
        path = self._path(shard, piece)
        if not self._maps.has(path):
            self._request(shard, piece, length).result()
        return self._maps.get(path, length, f"{shard.tokens_name}, piece {piece}")

    def discard(self, shard: ShardInfo, piece: int) -> bool:
        path = self._path(shard, piece)
        self._maps.forget(path)
        path.unlink(missing_ok=True)
        return True

    def expect(self, wanted: Iterable[tuple[ShardInfo, int, int]]) -> None:
        for shard, piece, length in wanted:
            if not self._maps.has(self._path(shard, piece)):
                self._request(shard, piece, length)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _path(self, shard: ShardInfo, piece: int) -> Path:
        return self._cache / shard.sha256 / f"{piece}.tokens"

    def _request(self, shard: ShardInfo, piece: int, length: int) -> Future[None]:
        start = piece * PIECE_BYTES
        path = self._path(shard, piece)
        return self._fetch(path, lambda: self._store.get_range(shard.tokens_name, start, length))

    def _fetch(self, path: Path, get: Callable[[], bytes]) -> Future[None]:
        """The one fetch of `path` that this process has under way, or one that is done."""
        coming = self._coming.get(path)
        if coming is None or (coming.done() and coming.exception() is not None):  # a failed fetch is tried again
            coming = self._coming[path] = self._pool.submit(_keep, path, get)
            coming.add_done_callback(lambda done: self._landed(path, done))
        return coming

    def _landed(self, path: Path, done: Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._coming.pop(path, None)


class Maps:
    """Read-only maps of files, the latest MOST_MAPS of them."""

    def __init__(self) -> None:
        self._maps: OrderedDict[Path, memoryview] = OrderedDict()

    def has(self, path: Path) -> bool:
        return path in self._maps

    def forget(self, path: Path) -> None:
        """The next `get` maps it anew."""
        self._maps.pop(path, None)

    def get(self, path: Path, length: int, name: str) -> memoryview:
        """The bytes of `path`, which has to have `length`: CorruptShard with `name` if it has not."""
        found = self._maps.get(path)
        if found is None:
            found = self._maps[path] = _map(path, length, name)
            if len(self._maps) > MOST_MAPS:
                self._maps.popitem(last=False)
        return found


def _map(path: Path, length: int, name: str) -> memoryview:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != length:
                raise CorruptShard(f"{name} has {size} bytes, the manifest says {length}; build the dataset again")
            return memoryview(mmap.mmap(file.fileno(), length, prot=mmap.PROT_READ))
    except FileNotFoundError as error:
        raise ObjectMissing(f"{path} is missing, the manifest names it; build the dataset again") from error


def read_ahead(raw: memoryview, start: int, length: int) -> memoryview:
    """raw[start:start + length] of a map (`start` at a page), which the kernel is told to bring in as one: from a cold
    disk in half the time of page after page."""
    part = raw[start : start + length]
    if isinstance(raw.obj, mmap.mmap):
        raw.obj.madvise(mmap.MADV_WILLNEED, start, part.nbytes)
    return part


def _read(root: Path, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except FileNotFoundError as error:
        raise ObjectMissing(f"{root / name} is missing, the manifest names it; build the dataset again") from error


def _keep(path: Path, get: Callable[[], bytes]) -> None:
    """Fetches into `path` unless it is there. Synced before it takes its name: a cache outlives a crash."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(get())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
