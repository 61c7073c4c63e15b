"""What is written down about the run beside its log: the journal first, then the live files, then the storage.

What must stay true: a full disk or a storage that is away costs a record or its picture, never the run.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from tessera_api.journal import (
    DrillLine,
    Event,
    EvidenceLine,
    IncidentLine,
    JournalRecord,
    LedgerLine,
    SizeLine,
    StepLine,
)
from tessera_api.run_directory import evidence_name
from tessera_coordinator.journal import SHIP_NUMBERS_EVERY_S, Journal
from tessera_coordinator.live_files import LiveFiles
from tessera_store import StoreError

logger = logging.getLogger(__name__)

MOST_WAITING = 20_000
NODES_REST = 100.0
"""nodes.json is made anew no sooner than so many times what it took to make."""
Document = dict[str, object]


class Records:
    """See the module."""

    def __init__(self, journal: Journal, files: LiveFiles) -> None:
        self._journal, self._files = journal, files
        self._news = self._unshipped = True
        """Events since the status was shown, and since the journal was shipped."""
        self._shipped_at = self._nodes_due = 0.0
        self._waiting: list[Callable[[], None]] = []
        self._keeping = threading.Lock()
        self._bundles: list[EvidenceLine] = []
        """Evidence that the storage does not have yet."""
        self.keep: Callable[[str, bytes], None] = lambda name, data: None
        """Puts a document into the run's storage. Raises StoreError."""
        self.watch: Callable[[JournalRecord], None] = lambda record: None
        """Called with every record."""

    def add(self, record: JournalRecord) -> None:
        """Into the journal and the live files."""
        self.watch(record)
        try:
            self._journal.append(record)
            match record:
                case Event():
                    self._news = self._unshipped = True
                    self._files.event(record)
                case StepLine():
                    self._files.step(record)
                case IncidentLine(incident=incident):
                    self._files.incident(incident.number, incident.model_dump(mode="json"))
                case EvidenceLine():
                    self._bundles.append(record)
                    self._unshipped = True
                case DrillLine():
                    self._unshipped = True
                case LedgerLine() | SizeLine():
                    pass
        except OSError as error:
            logger.error("not recorded: %s", error)

    def show(
        self, now: float, status: Callable[[], Document], nodes: Callable[[], Document], whole: bool = False
    ) -> None:
        """The status after an event, or when its numbers are due; the nodes as they are, each time, but where they are
        thousands: no more than a hundredth of the time is spent on that."""
        try:
            if whole or self._news or self._files.status_due(now):
                self._files.status(status(), now)
                self._news = False
            if whole or now >= self._nodes_due:
                began = time.monotonic()
                self._files.nodes(nodes())
                self._nodes_due = now + NODES_REST * (time.monotonic() - began)
        except OSError as error:
            logger.error("not shown: %s", error)

    def ship_due(self, now: float) -> bool:
        """Events reach the storage within a second; steps and the ledger may be some seconds late."""
        due = self._unshipped or now - self._shipped_at >= SHIP_NUMBERS_EVERY_S
        if due:
            self._unshipped, self._shipped_at = False, now
        return due

    def when_safe(self, then: Callable[[], None]) -> None:
        """Called once all that was added so far has outlived this host. In an outage of hours the oldest are dropped:
        who said what they stand for keeps as much, and says it again on its next stream."""
        self._waiting.append(then)
        if len(self._waiting) > 2 * MOST_WAITING:
            del self._waiting[:MOST_WAITING]

    def ship(self) -> bool:
        """Copy the journal's new records to storage; called off the event loop. Whether they are there."""
        try:
            self._journal.ship()
            with self._keeping:
                while self._bundles:
                    line = self._bundles[0]
                    self.keep(evidence_name(line.number), line.model_dump_json(indent=1).encode() + b"\n")
                    del self._bundles[0]
        except StoreError as error:
            logger.warning("the journal waits for storage: %s", error)
            return False
        return True

    async def keep_safe(self) -> None:
        """Ship, and tell who waited for that; who came meanwhile waits for the next time."""
        waited, self._waiting = self._waiting, []
        if await asyncio.to_thread(self.ship):
            for then in waited:
                then()
        else:
            self._waiting = [*waited, *self._waiting]

    def close(self) -> None:
        """No more records."""
        self._journal.close()
        self._files.close()
