"""The run's journal: its fine-grained history (events, steps, ledger), written at once, shipped a moment later.

Each term has one local file, `journal-local/TTTTTTTT.jsonl`, a JSON record a line; a record is in it when `append`
returns, and a kill can only tear the line that was being written. `ship` copies what is new to the store (`segments`),
of earlier terms too: what a killed coordinator left unshipped, the next one on this directory ships.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from tessera_api.journal import JOURNAL_RECORD, JournalRecord
from tessera_api.run_directory import JOURNAL_PREFIX
from tessera_coordinator.segments import Listing, Segments
from tessera_store import Store, StoreUnavailable

logger = logging.getLogger(__name__)

SHIP_NUMBERS_EVERY_S = 5.0
"""How often the coordinator calls `ship` while nothing happens: so much of the steps and the ledger a node takes with
it when it dies. Events are shipped within a second. (A segment costs more than all else that is done in a second.)"""

MAX_LINE_BYTES = 1 << 18
MAX_SEGMENT_BYTES = 1 << 20
"""What `ship` holds in memory; after an outage it ships several such segments."""

MAX_LOST_RACES = 32

_FOLDER = "journal-local"


class Journal:
    """The journal of one coordinator, which has claimed `term`.

    `append` is for one thread at a time, `ship` for any: it ships for one caller after the other.
    """

    def __init__(self, directory: Path, store: Store, term: int, prefix: str = JOURNAL_PREFIX) -> None:
        self._folder = directory / _FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        path = _file(self._folder, term)
        if path.exists():
            os.truncate(path, _whole_lines(path))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._term = term
        self._shipping = threading.RLock()
        self._segments = Segments(store, prefix)
        self._unshipped: dict[int, Listing | None] = {
            other: None for other in _local_terms(self._folder) if other <= term
        }
        """Terms whose local files may hold more than the store, with what is known to be there."""

    def append(self, record: JournalRecord) -> None:
        """Adds a record to the local file. Raises OSError (disk full; the file is then as before)."""
        line = record.canonical() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"journal record of {len(line)} bytes is longer than {MAX_LINE_BYTES}")
        before = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise
        if written < len(line):
            os.ftruncate(self._descriptor, before)
            raise OSError(f"only {written} of {len(line)} bytes of a journal record found room")

    def ship(self) -> int:
        """Copies to the store what it lacks; returns how many bytes that were.

        Raises StoreUnavailable and StoreRefused; nothing is lost then, and the next call goes on.
        """
        shipped = 0
        with self._shipping:
            for term in sorted(self._unshipped):
                shipped += self._ship(term)
                if term < self._term:
                    del self._unshipped[term]
        return shipped

    def close(self) -> None:
        """Gives the local file back; what is unshipped stays for the next coordinator on this directory."""
        os.close(self._descriptor)

    def _ship(self, term: int) -> int:
        path = _file(self._folder, term)
        listing = self._unshipped[term] or self._segments.term(term)
        self._unshipped[term] = None  # whatever interrupts us: the store is asked again
        shipped = lost = 0
        while data := _lines(path, listing.size):
            added = self._segments.add(listing, data)
            if added is None:
                listing, lost = self._segments.term(term), lost + 1
                if lost == MAX_LOST_RACES:
                    raise StoreUnavailable(f"lost {lost} races for a segment of term {term} in one call")
                continue
            shipped += len(data)
            listing = (
                self._segments.merge(added, partial(_range, path)) if term == self._term else self._segments.term(term)
            )
        self._unshipped[term] = listing
        return shipped


def read(store: Store, directory: Path, prefix: str = JOURNAL_PREFIX) -> Iterator[JournalRecord]:
    """Every record once, in the order of terms and of writing: from the local file where it has all, else as shipped.

    A line that is no record, which a damaged disk may have left, is passed over and that said: the journal is for
    people and the ledger, and no reason to lead no more. Raises StoreUnavailable.
    """
    segments = Segments(store, prefix)
    listings = {listing.term: listing for listing in segments.terms()}
    folder = directory / _FOLDER
    for term in sorted({*listings, *_local_terms(folder)}):
        listing = listings.get(term, Listing(term))
        path = _file(folder, term)
        if path.exists() and path.stat().st_size >= listing.size:
            yield from _records(_local_chunks(path), str(path))
        else:
            yield from _records(segments.read(listing), f"the journal of term {term} in {store.uri}")


def _records(chunks: Iterator[bytes], place: str) -> Iterator[JournalRecord]:
    """The records of a stream of whole lines."""
    number = 0
    unreadable: list[int] = []
    for chunk in chunks:
        for line in chunk.split(b"\n")[:-1]:
            number += 1
            try:
                yield JOURNAL_RECORD.validate_json(line)
            except ValidationError:
                unreadable.append(number)
    if unreadable:
        logger.warning("%s: %d lines are no records, the first is line %d", place, len(unreadable), unreadable[0])


def _local_chunks(path: Path) -> Iterator[bytes]:
    offset = 0
    while data := _lines(path, offset):
        yield data
        offset += len(data)


def _lines(path: Path, offset: int) -> bytes:
    """Whole lines from `offset` on, at most `MAX_SEGMENT_BYTES`; empty at the end or before a torn line."""
    data = _range(path, offset, MAX_SEGMENT_BYTES)
    return data[: data.rfind(b"\n") + 1]


def _range(path: Path, start: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(length)


def _whole_lines(path: Path) -> int:
    """Where a file's last whole line ends."""
    return sum(len(chunk) for chunk in _local_chunks(path))


def _file(folder: Path, term: int) -> Path:
    return folder / f"{term:08d}.jsonl"


def _local_terms(folder: Path) -> tuple[int, ...]:
    return tuple(sorted(int(path.stem) for path in folder.glob("*.jsonl") if path.stem.isdecimal()))
