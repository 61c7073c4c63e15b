"""The journal: at once on disk, a moment later in the store, each record once, whatever is killed or away."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tessera_api.journal import Event, EventName, JournalRecord, LedgerLine, StepLine
from tessera_coordinator import segments
from tessera_coordinator.journal import MAX_LINE_BYTES, MAX_SEGMENT_BYTES, Journal, read
from tessera_coordinator.segments import MERGED, SWEPT
from tessera_store import ObjectExists, ObjectInfo, ObjectMissing, StoreUnavailable, open_store


def note(number: int, message: str = "") -> Event:
    return Event(time=float(number), name=EventName.NOTE, message=message)


class Interrupted:
    """A store in memory that is away, or does a creation and loses the answer, when told to."""

    uri = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.away = False
        self.lose_answer = False
        self.meanwhile: list[Callable[[], object]] = []
        """What happens while a creation is on its way, one for each (and none for those that happen meanwhile)."""
        self._held = False

    def create(self, name: str, data: bytes) -> None:
        self._ask()
        if self.meanwhile and not self._held:
            self._held = True
            self.meanwhile.pop(0)()
            self._held = False
        if name in self.objects:
            raise ObjectExists(name)
        self.objects[name] = data
        if self.lose_answer:
            self.lose_answer = False
            raise StoreUnavailable(name)

    def get(self, name: str) -> bytes:
        self._ask()
        if name not in self.objects:
            raise ObjectMissing(name)
        return self.objects[name]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._ask()
        names = sorted(name for name in self.objects if name.startswith(prefix))
        return iter([ObjectInfo(name, len(self.objects[name]), 0.0) for name in names])

    def delete(self, name: str) -> None:
        self._ask()
        self.objects.pop(name, None)

    def put(self, name: str, data: bytes | Path) -> None:
        raise AssertionError("a segment is created, never put")

    def get_range(self, name: str, start: int, length: int) -> bytes:
        raise AssertionError("a segment is read whole")

    def download(self, name: str, path: Path) -> None:
        raise AssertionError("a segment is read whole")

    def size(self, name: str) -> int:
        raise AssertionError("sizes come from the listing")

    def info(self, name: str) -> ObjectInfo:
        raise AssertionError("sizes come from the listing")

    def _ask(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory without local journal files: what a coordinator on another node sees."""
    return tmp_path / "elsewhere"


def test_every_kind_of_record_comes_back_as_it_was(tmp_path: Path, store: Interrupted, elsewhere: Path) -> None:
    records: list[JournalRecord] = [
        note(1, "a line\nbreak, an 'é' and a \x00"),
        StepLine(time=2.0, step=7, tokens=8, loss=math.inf, generation=1, world_size=3, numbers={"rows": 2.0}),
        LedgerLine(time=3.0, seconds={"compute": 1.5}),
    ]
    journal = Journal(tmp_path, store, term=1)
    for record in records:
        journal.append(record)
    journal.ship()

    assert list(read(store, tmp_path)) == list(read(store, elsewhere)) == records


def test_a_loss_that_is_no_number_survives(tmp_path: Path, store: Interrupted) -> None:
    Journal(tmp_path, store, term=1).append(
        StepLine(time=2.0, step=7, tokens=8, loss=math.nan, generation=1, world_size=3)
    )

    (record,) = read(store, tmp_path)

    assert isinstance(record, StepLine)
    assert math.isnan(record.loss)


def test_a_record_is_there_before_it_is_shipped(tmp_path: Path, store: Interrupted, elsewhere: Path) -> None:
    Journal(tmp_path, store, term=1).append(note(1))

    assert (list(read(store, tmp_path)), list(read(store, elsewhere))) == ([note(1)], [])


def test_shipping_sends_only_what_is_new(tmp_path: Path, store: Interrupted) -> None:
    journal = Journal(tmp_path, store, term=1)
    journal.append(note(1))
    sizes = [journal.ship(), journal.ship()]
    journal.append(note(2))
    sizes.append(journal.ship())

    line = len(note(1).canonical()) + 1
    assert sizes == [line, 0, line]
    assert [info.name for info in store.list()] == ["journal/00000001-00000001", "journal/00000001-00000002"]


def test_the_next_coordinator_ships_what_the_killed_one_left(
    tmp_path: Path, store: Interrupted, elsewhere: Path
) -> None:
    first = Journal(tmp_path, store, term=1)
    first.append(note(1))
    first.ship()
    first.append(note(2))

    second = Journal(tmp_path, store, term=2)
    second.append(note(3))
    second.ship()

    assert list(read(store, elsewhere)) == [note(1), note(2), note(3)]


def test_a_torn_last_line_is_passed_over_and_never_shipped(tmp_path: Path, store: Interrupted, elsewhere: Path) -> None:
    Journal(tmp_path, store, term=1).append(note(1))
    with open(tmp_path / "journal-local" / "00000001.jsonl", "ab") as file:
        file.write(b'{"record":"ev')

    Journal(tmp_path, store, term=2).ship()

    assert list(read(store, tmp_path)) == list(read(store, elsewhere)) == [note(1)]


def test_lines_that_are_no_records_are_passed_over_and_counted(
    tmp_path: Path, store: Interrupted, caplog: pytest.LogCaptureFixture
) -> None:
    Journal(tmp_path, store, term=1).append(note(1))
    with open(tmp_path / "journal-local" / "00000001.jsonl", "ab") as file:
        file.write(b"rubbish\n\xff\n" + note(2).canonical() + b"\n")

    assert list(read(store, tmp_path)) == [note(1), note(2)]
    assert "00000001.jsonl: 2 lines are no records, the first is line 2" in caplog.text


def test_without_storage_it_keeps_writing_and_ships_it_all_later(
    tmp_path: Path, store: Interrupted, elsewhere: Path
) -> None:
    journal = Journal(tmp_path, store, term=1)
    store.away = True
    numbers = range(3 * MAX_SEGMENT_BYTES // 2000)
    for number in numbers:
        journal.append(note(number, "x" * 1900))
        if number == 3:
            with pytest.raises(StoreUnavailable):
                journal.ship()
    store.away = False

    journal.ship()

    assert list(read(store, elsewhere)) == [note(number, "x" * 1900) for number in numbers]
    assert all(info.size <= MAX_SEGMENT_BYTES for info in store.list("journal/"))


def test_a_segment_whose_answer_was_lost_is_not_shipped_twice(
    tmp_path: Path, store: Interrupted, elsewhere: Path
) -> None:
    journal = Journal(tmp_path, store, term=1)
    journal.append(note(1))
    store.lose_answer = True
    with pytest.raises(StoreUnavailable):
        journal.ship()
    journal.append(note(2))

    journal.ship()

    assert list(read(store, elsewhere)) == [note(1), note(2)]


def test_many_segments_are_merged_and_swept(tmp_path: Path, store: Interrupted, elsewhere: Path) -> None:
    journal = Journal(tmp_path, store, term=1)
    numbers = range(2 * MERGED + MERGED // SWEPT)
    for number in numbers:
        journal.append(note(number))
        journal.ship()

    assert list(read(store, elsewhere)) == [note(number) for number in numbers]
    names = [info.name for info in store.list("journal/")]
    assert names[-2:] == ["journal/00000001-m00000001", "journal/00000001-m00000002"]
    assert len(names) <= MERGED // SWEPT + 2


@pytest.mark.parametrize("rest", [1, 2, 5])
def test_a_successor_held_up_while_it_ships_the_rest_of_a_living_predecessor_doubles_nothing(
    tmp_path: Path, store: Interrupted, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, rest: int
) -> None:
    monkeypatch.setattr(segments, "MERGED", 4)
    old, numbers = Journal(tmp_path, store, term=1), count()
    written: list[JournalRecord] = []

    def old_goes_on(lines: int) -> None:
        for _ in range(lines):
            written.append(note(next(numbers)))
            old.append(written[-1])
            old.ship()

    old_goes_on(3)
    written.append(note(next(numbers)))
    old.append(written[-1])
    store.meanwhile = [lambda: old_goes_on(4 + rest), lambda: old_goes_on(rest), lambda: old_goes_on(4)]

    Journal(tmp_path, store, term=2).ship()
    old_goes_on(9)

    assert list(read(store, elsewhere)) == written


def test_a_record_too_long_for_a_segment_is_refused(tmp_path: Path, store: Interrupted) -> None:
    numbers = {f"number {index}" * 10: 1.0 for index in range(MAX_LINE_BYTES // 80)}

    with pytest.raises(ValueError, match="longer than"):
        Journal(tmp_path, store, term=1).append(Event(time=0.0, name=EventName.NOTE, numbers=numbers))


def test_directory_and_store_may_be_the_same_place(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    journal = Journal(tmp_path, store, term=1)
    journal.append(note(1))
    journal.ship()
    journal.append(note(2))

    assert list(read(store, tmp_path)) == [note(1), note(2)]


class Survival(RuleBasedStateMachine):
    """Any order of appending, shipping, outage, lost answer, kill and a rival that ships the same file."""

    @initialize()
    def start(self) -> None:
        self.place = TemporaryDirectory()
        self.directory = Path(self.place.name) / "local"
        self.store = Interrupted()
        self.constants = pytest.MonkeyPatch()
        self.constants.setattr(segments, "MERGED", 4)  # so that merging is an everyday thing here
        self.term = 1
        self.journals = [Journal(self.directory, self.store, 1)]
        self.written: dict[int, list[Event]] = {1: []}

    @rule(size=st.integers(0, 50))
    def append(self, size: int) -> None:
        record = note(sum(len(each) for each in self.written.values()), "x" * size)
        self.journals[-1].append(record)
        self.written[self.term].append(record)

    @rule(which=st.integers(0, 9))
    def ship(self, which: int) -> None:
        with suppress(StoreUnavailable):
            self.journals[which % len(self.journals)].ship()

    @rule()
    def ship_often(self) -> None:
        for _ in range(9):
            self.append(1)
            self.ship(len(self.journals) - 1)

    @rule(away=st.booleans())
    def outage(self, away: bool) -> None:
        self.store.away = away

    @rule()
    def lose_an_answer(self) -> None:
        self.store.lose_answer = True

    @rule(torn=st.booleans())
    def replace_the_coordinator(self, torn: bool) -> None:
        """The old one may live on: it can still ship, and its last line may be torn."""
        if torn:
            with open(self.directory / "journal-local" / f"{self.term:08d}.jsonl", "ab") as file:
                file.write(b'{"torn')
        self.term += 1
        self.written[self.term] = []
        self.journals.append(Journal(self.directory, self.store, self.term))

    @rule()
    def read_here(self) -> None:
        if not self.store.away:
            assert list(read(self.store, self.directory)) == self._all()

    def _all(self) -> list[Event]:
        return [record for term in sorted(self.written) for record in self.written[term]]

    def teardown(self) -> None:
        self.store.away = self.store.lose_answer = False
        self.journals[-1].ship()
        assert list(read(self.store, Path(self.place.name) / "elsewhere")) == self._all()
        self.constants.undo()
        for journal in self.journals:
            journal.close()
        self.place.cleanup()


TestSurvival = Survival.TestCase
TestSurvival.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)

WRITER = """
import sys
from pathlib import Path
from tessera_api.journal import Event, EventName
from tessera_coordinator import segments
from tessera_coordinator.journal import Journal
from tessera_store import open_store
directory, uri, term = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
journal = Journal(directory, open_store(uri), term)
for number in range(100000):
    journal.append(Event(time=float(number), name=EventName.NOTE, term=term))
    print(number, flush=True)
    if number % 3 == 0:
        journal.ship()
"""


def test_killed_anywhere_nothing_that_was_appended_is_lost_or_doubled(store_uri: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = {}
    for term in range(1, 5):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "local"), store_uri, str(term)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            for _ in range(10 * term + 1):
                writer.stdout.readline()
            writer.kill()
            said[term] = int((["0"] + [line for line in writer.stdout if line.endswith("\n")])[-1])

    store = open_store(store_uri)
    Journal(tmp_path / "local", store, term=9).ship()

    records = [record for record in read(store, tmp_path / "elsewhere") if isinstance(record, Event)]
    assert list(read(store, tmp_path / "local")) == records
    for term, last in said.items():
        numbers = [int(record.time) for record in records if record.term == term]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > last
