"""The run's log in its store: reading it, and the race for the next number (design.md §2.0).

Entry N lies at `log/%08d` and is written by conditional creation, after everything before it was read and judged; so a
number has one entry and one history grows, however many writers live. A writer that meets a newer term is `Superseded`
and ends itself; a commit of a generation that was replaced is `StaleGeneration` and void.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from tessera_api.log import Claim, Commit, End, Entry, Open, Retire, Rewind, Skip, object_name, parse_entry
from tessera_api.run_directory import LOG_PREFIX
from tessera_coordinator.core.history import History, IllegalEntry
from tessera_store import ObjectExists, ObjectMissing, Store

MAX_LOST_RACES = 32
"""So many numbers lost in a row mean many writers at work, none of which ends itself: a bug, not a race."""

READERS = 8
"""How many entries are fetched at a time when a log is read for the first time."""

MAX_HOLDER = 160

Ruled = Open | Commit | Rewind | Skip | Retire | End
"""What a coordinator writes under the term that it claimed."""


class Superseded(Exception):
    """A newer term is claimed: another coordinator leads and this one must end itself."""


class StaleGeneration(Exception):
    """A commit's generation is no longer the open one: the commit is void, its writer goes on."""


class RunLog:
    """One writer's (or reader's) hold of the log; used by one thread at a time.

    `history` is what was read last. After StoreUnavailable the same call may be made again with the same entry: if its
    creation was done after all, it is found under its number and not written twice.
    """

    def __init__(self, store: Store, prefix: str = LOG_PREFIX) -> None:
        self._store = store
        self._prefix = prefix
        self._tried: set[bytes] = set()
        """What this writer asked the store to create at the number after `history`, the outcome not known."""
        self._found: dict[bytes, int] = {}
        """Entries that were tried, left in doubt, and met later when reading."""
        self.history = History()
        self.term = 0
        """The term that this writer claimed; 0 while it only reads."""

    def read_all(self) -> History:
        """Reads on to the end of the log. Raises StoreUnavailable; IllegalEntry where the log breaks its own rules."""
        if self.history.length == 0:
            self._read_first()
        number = self.history.length + 1
        while (data := self._get(number)) is not None:
            self._fold(number, data)
            number += 1
        return self.history

    def claim(self, holder: str, time: float, slot: str | None = None) -> Claim:
        """Begins the next term and returns its entry. `holder` is for people, `time` is in Unix seconds, `slot` says
        which of the run's coordinators it is.

        Who loses the race tries a higher one: the last claimant leads. Raises IllegalEntry where the run has ended.
        """
        # Two claimants of one term must not write the same bytes, or each would take the entry for its own.
        unique = f"{holder[:MAX_HOLDER]}#{uuid.uuid4().hex}"
        for _ in range(MAX_LOST_RACES):
            claim = Claim(term=self.read_all().term + 1, holder=unique, slot=slot, time=time)
            if self._create(claim) is not None:
                self.term = claim.term
                return claim
        raise Superseded(f"lost {MAX_LOST_RACES} races for a term in a row, the last one to {self.history.holder}")

    def check_term(self) -> None:
        """Reads on. Raises Superseded where a newer term is claimed, StoreUnavailable."""
        self.read_all()
        self._require_term()

    def _require_term(self) -> None:
        if self.history.term > self.term:
            raise Superseded(f"term {self.history.term} was claimed by {self.history.holder}; ours is {self.term}")

    def append(self, entry: Ruled) -> int:
        """Writes `entry` under the next free number and returns the number.

        Raises Superseded, StaleGeneration (of a commit), IllegalEntry (a rule is broken: a bug) and StoreUnavailable:
        then the entry may stand in the log, be on its way there, or be lost.
        """
        for _ in range(MAX_LOST_RACES):
            number = self._found.pop(entry.canonical(), None) or self._create(entry)
            if number is not None:
                return number
            self.read_all()
        raise Superseded(f"lost {MAX_LOST_RACES} numbers in a row to other writers of term {self.term}")

    def _create(self, entry: Entry) -> int | None:
        """The number under which `entry` was written, or None where another entry has that number."""
        number = self.history.length + 1
        self._judge(number, entry)
        data = entry.canonical()
        self._tried.add(data)
        try:
            self._store.create(self._prefix + object_name(number), data)
        except ObjectExists:
            return None
        self._fold(number, data)
        self._found.clear()
        return number

    def _judge(self, number: int, entry: Entry) -> None:
        """Raises unless `entry` may follow what is known now; the creation proves that this is all there is."""
        if not isinstance(entry, Claim):
            self._require_term()
            if isinstance(entry, Commit) and entry.generation < self.history.generation:
                raise StaleGeneration(
                    f"step {entry.step} of generation {entry.generation} is void: {self.history.generation} is open"
                )
        self.history.apply(number, entry)

    def _fold(self, number: int, data: bytes) -> None:
        self.history = self.history.apply(number, _parse(number, data))
        if data in self._tried:
            self._found[data] = number
        self._tried.clear()

    def _read_first(self) -> None:
        """Reads a log from its beginning, several entries at a time."""
        listed = (info.name for info in self._store.list(self._prefix))
        names = [name for name in listed if name.removeprefix(self._prefix).isdecimal()]
        with ThreadPoolExecutor(READERS, thread_name_prefix="log-reader") as pool:
            for number, name, data in zip(
                range(1, len(names) + 1), names, pool.map(self._store.get, names), strict=True
            ):
                if name != self._prefix + object_name(number):
                    raise IllegalEntry(f"log entry {number} is missing, yet {name} exists: something else deleted it")
                self._fold(number, data)

    def _get(self, number: int) -> bytes | None:
        try:
            return self._store.get(self._prefix + object_name(number))
        except ObjectMissing:
            return None


def _parse(number: int, data: bytes) -> Entry:
    try:
        return parse_entry(data)
    except ValidationError as error:
        raise IllegalEntry(f"log entry {number} cannot be read: {error}") from error
