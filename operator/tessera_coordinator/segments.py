"""How a term's journal lies in the store: one stream of bytes, cut into objects.

The coordinator of a term writes one local file; the term's segments, in order, are that file's first bytes, always
whole lines. `TTTTTTTT-SSSSSSSS` is segment S (from 1) of term T. `MERGED` of them are merged into `TTTTTTTT-mKKKKKKKK`
and then deleted, so that a month's journal does not take millions of requests to read. All are created conditionally;
how much is shipped is known from the listing alone, so there is no second note of it that could be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from tessera_store import ObjectExists, ObjectInfo, ObjectMissing, Store, StoreUnavailable

MERGED = 128
"""Segments in a merged object."""

SWEPT = 8
"""How many merged segments are deleted in one go, so that shipping never waits long for it."""

MAX_RELISTS = 5
"""A reader lists a term anew when segments were merged under its hands; that happens once in `MERGED` seconds."""

_NAME = re.compile(r"(\d{8})-(m?)(\d{8})")


@dataclass(frozen=True, slots=True)
class Listing:
    """What the store holds of one term: chunks in the order of the stream, and segments that a merge left behind."""

    term: int
    chunks: tuple[ObjectInfo, ...] = ()
    merged: int = 0
    """How many of `chunks`, the first ones, are merged objects."""
    leftover: tuple[ObjectInfo, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the stream that are in the store."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def sequence(self) -> int:
        """The number of the last segment."""
        return self.merged * MERGED + len(self.chunks) - self.merged


class Segments:
    """The segments of all terms of a run below `prefix` in `store`."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def terms(self) -> tuple[Listing, ...]:
        """What is there of each term, ascending."""
        found: dict[int, list[ObjectInfo]] = {}
        for info in self._store.list(self._prefix):
            if (match := _NAME.fullmatch(info.name.removeprefix(self._prefix))) is not None:
                found.setdefault(int(match.group(1)), []).append(info)
        return tuple(_listing(term, infos) for term, infos in sorted(found.items()))

    def term(self, term: int) -> Listing:
        """What is there of one term."""
        return _listing(term, list(self._store.list(f"{self._prefix}{term:08d}-")))

    def add(self, listing: Listing, data: bytes) -> Listing | None:
        """The listing with `data` as the next segment, or None where another writer has created that one."""
        name = f"{self._prefix}{listing.term:08d}-{listing.sequence + 1:08d}"
        try:
            self._store.create(name, data)
        except ObjectExists:
            return None
        chunk = ObjectInfo(name, len(data), 0.0)
        return replace(listing, chunks=(*listing.chunks, chunk))

    def merge(self, listing: Listing, stream: Callable[[int, int], bytes]) -> Listing:
        """The listing after the oldest `MERGED` segments became one object, if there are so many; else it sweeps a few.

        Only the term's own coordinator merges: who ships another term's rest lists anew before each segment, so that
        it creates no number which was merged away, except one that every reader passes over. `stream(start, length)`
        reads the local file.
        """
        singles = listing.chunks[listing.merged :]
        if len(singles) < MERGED:
            for info in listing.leftover[:SWEPT]:
                self._store.delete(info.name)
            return replace(listing, leftover=listing.leftover[SWEPT:])
        start = sum(chunk.size for chunk in listing.chunks[: listing.merged])
        length = sum(single.size for single in singles[:MERGED])
        name = f"{self._prefix}{listing.term:08d}-m{listing.merged + 1:08d}"
        with suppress(ObjectExists):  # created by an earlier call whose answer was lost
            self._store.create(name, stream(start, length))
        chunks = (*listing.chunks[: listing.merged], ObjectInfo(name, length, 0.0), *singles[MERGED:])
        return Listing(listing.term, chunks, listing.merged + 1, (*listing.leftover, *singles[:MERGED]))

    def read(self, listing: Listing) -> Iterator[bytes]:
        """The stream's bytes from its beginning to where `listing` or a later listing ends."""
        done = 0
        for _ in range(MAX_RELISTS):
            start = 0
            try:
                for chunk in listing.chunks:
                    if start + chunk.size > done:
                        data = self._store.get(chunk.name)[done - start :]
                        done += len(data)
                        yield data
                    start += chunk.size
                return
            except ObjectMissing:
                listing = self.term(listing.term)
        raise StoreUnavailable(f"the journal of term {listing.term} was merged {MAX_RELISTS} times while it was read")


def _listing(term: int, infos: list[ObjectInfo]) -> Listing:
    """Sorts a term's objects; a merged object comes into being before its segments go, and is listed after them."""
    merged: list[ObjectInfo] = []
    singles: dict[int, ObjectInfo] = {}
    for info in infos:
        match = _NAME.search(info.name, info.name.rfind("/") + 1)
        if match is not None and match.group(2):
            merged.append(info)
        elif match is not None:
            singles[int(match.group(3))] = info
    covered = len(merged) * MERGED
    leftover = tuple(info for sequence, info in singles.items() if sequence <= covered)
    chunks = tuple(info for sequence, info in singles.items() if sequence > covered)
    return Listing(term, (*merged, *chunks), len(merged), leftover)
