"""Several writers on one log, with every write at the mercy of a scheduler: one legal history, whatever the order.

A `World` runs each writer's real RunLog in a thread of its own. A write stops at the store until the scheduler gives it
a fate; in between the writer is as good as SIGSTOPped. Only one thread runs at a time, so a failing example repeats.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tessera_api.log import (
    Claim,
    Commit,
    End,
    Entry,
    Member,
    Open,
    ResumePoint,
    Retire,
    StoreAddress,
    StoredObject,
    parse_entry,
)
from tessera_coordinator.core.history import IllegalEntry, fold
from tessera_coordinator.run_log import RunLog, StaleGeneration, Superseded
from tessera_store import ObjectExists, ObjectInfo, ObjectMissing, StoreUnavailable

LIMIT_S = 10.0
WRITERS = 3


class Fate(Enum):
    """What becomes of a write."""

    DONE = "done and answered"
    ANSWER_LOST = "done, the answer lost"
    ASKED_AGAIN = "asked twice by the adapter, which then takes an object of the same bytes for its own"
    LATE = "not yet done, given up by its writer, done later"
    LOST = "never done"


class Act(Enum):
    """What a coordinator may set out to do."""

    CLAIM = "claim"
    OPEN = "open"
    COMMIT = "commit"
    OLD_COMMIT = "commit of the generation before"
    RETIRE = "retire"
    END = "end"
    AGAIN = "what was in doubt, once more"


@dataclass
class HeldStore:
    """The store as one writer sees it: reads answer at once, a creation waits for its fate."""

    objects: dict[str, bytes]
    fates: queue.Queue[Fate]
    asked: queue.Queue[object]
    late: list[tuple[str, bytes]]
    conditional: bool = True

    uri = "memory:"

    def create(self, name: str, data: bytes) -> None:
        self.asked.put("write")
        fate = self.fates.get(timeout=LIMIT_S)
        if fate is Fate.LATE:
            self.late.append((name, data))
        if fate in (Fate.LATE, Fate.LOST):
            raise StoreUnavailable(name)
        if fate is Fate.ASKED_AGAIN and self.objects.get(name) == data:
            return
        if self.conditional and name in self.objects:
            raise StoreUnavailable(name) if fate is Fate.ANSWER_LOST else ObjectExists(name)
        self.objects[name] = data
        if fate is Fate.ANSWER_LOST:
            raise StoreUnavailable(name)

    def get(self, name: str) -> bytes:
        if name not in self.objects:
            raise ObjectMissing(name)
        return self.objects[name]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        names = sorted(name for name in self.objects if name.startswith(prefix))
        return iter([ObjectInfo(name, len(self.objects[name]), 0.0) for name in names])

    def _never(self, *args: object, **named: object) -> NoReturn:
        raise AssertionError("the log is created and read whole, nothing else")

    put = get_range = download = delete = size = info = _never


@dataclass
class Writer:
    """A coordinator: its log, what it is doing, and how that went."""

    store: HeldStore
    log: RunLog = field(init=False)
    orders: queue.Queue[Callable[[], object] | None] = field(default_factory=queue.Queue)
    busy: bool = False
    over: bool = False
    outcome: object = None
    doubtful: Entry | None = None

    def __post_init__(self) -> None:
        self.log = RunLog(self.store)
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while (order := self.orders.get()) is not None:
            try:
                self.outcome = order()
            except (StoreUnavailable, Superseded, StaleGeneration, IllegalEntry) as error:
                self.outcome = error
            except queue.Empty:
                return
            self.store.asked.put("done")

    def order(self, work: Callable[[], object]) -> None:
        self.busy = True
        self.orders.put(work)
        self.settle()

    def settle(self) -> None:
        """Returns when the writer stands before a write or is done."""
        if self.store.asked.get(timeout=LIMIT_S) == "done":
            self.busy = False
            self.over = self.over or isinstance(self.outcome, Superseded)


class World:
    """Some writers, one store, and the writes that are still under way."""

    def __init__(self, writers: int = WRITERS, conditional: bool = True) -> None:
        self.objects: dict[str, bytes] = {}
        self.late: list[tuple[str, bytes]] = []
        self.clock = 0.0
        self.accepted: dict[int, bytes] = {}
        stores = [HeldStore(self.objects, queue.Queue(), queue.Queue(), self.late, conditional) for _ in range(writers)]
        self.writers = [Writer(store) for store in stores]

    def begin(self, writer: Writer, act: Act) -> None:
        """The writer sets out; it stops before its first write, or is done without one."""
        self.clock += 1
        if act is Act.CLAIM:
            writer.doubtful = None
            writer.order(lambda: writer.log.claim("coordinator", 0.0))
            return
        entry = writer.doubtful if act is Act.AGAIN else self._entry(writer, act)
        if entry is None or isinstance(entry, Claim):
            return
        writer.doubtful = entry
        writer.order(lambda: self._append(writer, entry))

    def _append(self, writer: Writer, entry: Entry) -> int:
        assert not isinstance(entry, Claim)
        number = writer.log.append(entry)
        self.accepted[number] = entry.canonical()
        writer.doubtful = None
        return number

    def fate(self, writer: Writer, fate: Fate) -> None:
        """Decides the write that the writer stands before, and lets it go on to the next."""
        writer.store.fates.put(fate)
        writer.settle()

    def arrive(self, index: int) -> None:
        """A late write reaches the store; nobody hears the answer."""
        name, data = self.late.pop(index % len(self.late))
        self.objects.setdefault(name, data)

    def finish(self, writer: Writer) -> None:
        while writer.busy:
            self.fate(writer, Fate.DONE)

    def do(self, writer: Writer, *acts: Act) -> object:
        """Acts with an undisturbed network; the outcome of the last."""
        for act in acts:
            self.begin(writer, act)
            self.finish(writer)
        return writer.outcome

    def entries(self) -> list[Entry]:
        return [parse_entry(self.objects[name]) for name in sorted(self.objects)]

    def close(self) -> None:
        for writer in self.writers:
            self.finish(writer)
            writer.orders.put(None)

    def _entry(self, writer: Writer, act: Act) -> Entry | None:
        history, term = writer.log.history, max(writer.log.term, 1)
        newest = history.newest
        match act:
            case Act.OPEN:
                return open_(term, history.generation + 1, self.clock, resume_from(newest))
            case Act.COMMIT if history.generation:
                return commit(term, history.generation, (newest.step if newest else 0) + 1, self.clock)
            case Act.OLD_COMMIT if history.generation > 1:
                return commit(term, history.generation - 1, (newest.step if newest else 0) + 1, self.clock)
            case Act.RETIRE if len(history.commits) > 1:
                return Retire(term=term, steps=history.steps()[:1], time=self.clock)
            case Act.END if history.generation:
                return End(term=term, reason="complete", message="", time=self.clock)
            case _:
                return None


def open_(term: int, generation: int, time: float, resume: ResumePoint | None) -> Open:
    members = (Member(node="node-1", incarnation="a", processes=1),)
    store = StoreAddress(host="::1", port=1)
    return Open(term=term, generation=generation, members=members, store=store, nonce="n", resume=resume, time=time)


def resume_from(newest: Commit | None) -> ResumePoint | None:
    if newest is None:
        return None
    return ResumePoint(step=newest.step, position=newest.position, objects=newest.objects)


def commit(term: int, generation: int, step: int, time: float) -> Commit:
    part = StoredObject(name=f"checkpoints/{step:08d}-{term}.{generation}-n/rank", size=1, sha256="0" * 64)
    return Commit(term=term, generation=generation, step=step, position=step, objects=(part,), time=time)


class Races(RuleBasedStateMachine):
    """Any order of pause, late write, lost answer, claim, open, commit, retire and end."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(index=st.integers(0, WRITERS - 1), act=st.sampled_from([*Act][:-2] + [Act.AGAIN, Act.CLAIM, Act.COMMIT]))
    def begin(self, index: int, act: Act) -> None:
        writer = self.world.writers[index]
        if not writer.busy and not writer.over:
            self.world.begin(writer, act)

    @precondition(lambda self: any(writer.busy for writer in self.world.writers))
    @rule(index=st.integers(0, WRITERS - 1), fate=st.sampled_from(Fate))
    def decide(self, index: int, fate: Fate) -> None:
        busy = [writer for writer in self.world.writers if writer.busy]
        self.world.fate(busy[index % len(busy)], fate)

    @precondition(lambda self: len(self.world.objects) > 12)
    @rule(index=st.integers(0, WRITERS - 1))
    def end(self, index: int) -> None:
        self.begin(index, Act.END)

    @precondition(lambda self: bool(self.world.late))
    @rule(index=st.integers(0, 100))
    def arrive(self, index: int) -> None:
        self.world.arrive(index)

    @invariant()
    def one_legal_history(self) -> None:
        assert sorted(self.world.objects) == [f"log/{number:08d}" for number in range(1, len(self.world.objects) + 1)]
        fold(self.world.entries())

    @invariant()
    def no_entry_stands_twice(self) -> None:
        assert len(set(self.world.objects.values())) == len(self.world.objects)

    @invariant()
    def what_was_accepted_stays(self) -> None:
        for number, data in self.world.accepted.items():
            assert self.world.objects[f"log/{number:08d}"] == data

    @invariant()
    def no_term_has_two_writers(self) -> None:
        terms = [writer.log.term for writer in self.world.writers if writer.log.term]
        assert len(set(terms)) == len(terms)

    def teardown(self) -> None:
        """Whatever was under way ends; then every writer that does not lead learns it at its next write."""
        for writer in self.world.writers:
            self.world.finish(writer)
        self.one_legal_history()
        history = fold(self.world.entries())
        for writer in self.world.writers:
            if 0 < writer.log.term < history.term and not writer.over and history.ended is None:
                self.world.begin(writer, Act.OPEN)
                self.world.finish(writer)
                assert isinstance(writer.outcome, Superseded)
        assert fold(self.world.entries()) == history
        self.world.close()


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def kinds(world: World) -> list[tuple[str, int]]:
    return [(entry.kind, entry.term) for entry in world.entries()]


def test_a_writer_paused_between_deciding_and_writing_finds_itself_superseded(world: World) -> None:
    old, new, _ = world.writers
    world.do(old, Act.CLAIM, Act.OPEN)
    world.begin(old, Act.COMMIT)

    world.do(new, Act.CLAIM)
    world.finish(old)

    assert isinstance(old.outcome, Superseded)
    assert kinds(world) == [("claim", 1), ("open", 1), ("claim", 2)]


def test_a_late_commit_that_arrives_after_a_new_claim_is_void(world: World) -> None:
    old, new, _ = world.writers
    world.do(old, Act.CLAIM, Act.OPEN)
    world.begin(old, Act.COMMIT)
    world.fate(old, Fate.LATE)
    world.do(new, Act.CLAIM)

    world.arrive(0)

    assert kinds(world) == [("claim", 1), ("open", 1), ("claim", 2)]


def test_a_late_commit_that_arrives_first_stands_and_the_claimant_sees_it(world: World) -> None:
    old, new, _ = world.writers
    world.do(old, Act.CLAIM, Act.OPEN)
    world.begin(old, Act.COMMIT)
    world.fate(old, Fate.LATE)
    world.begin(new, Act.CLAIM)
    world.arrive(0)

    world.finish(new)

    assert kinds(world) == [("claim", 1), ("open", 1), ("commit", 1), ("claim", 2)]
    assert new.log.history.steps() == (1,)


def test_an_entry_whose_answer_was_lost_is_not_written_twice(world: World) -> None:
    writer = world.writers[0]
    world.do(writer, Act.CLAIM)
    world.begin(writer, Act.OPEN)
    world.fate(writer, Fate.ANSWER_LOST)
    assert isinstance(writer.outcome, StoreUnavailable)

    assert world.do(writer, Act.AGAIN) == 2

    assert kinds(world) == [("claim", 1), ("open", 1)]


def test_a_commit_of_the_generation_before_is_void_and_its_writer_goes_on(world: World) -> None:
    writer = world.writers[0]
    world.do(writer, Act.CLAIM, Act.OPEN, Act.OPEN)

    assert isinstance(world.do(writer, Act.OLD_COMMIT), StaleGeneration)

    assert world.do(writer, Act.COMMIT) == 4


def test_two_claimants_of_one_term_cannot_take_each_others_entry_for_their_own(world: World) -> None:
    one, two, _ = world.writers
    world.begin(one, Act.CLAIM)
    world.begin(two, Act.CLAIM)
    world.finish(one)

    world.fate(two, Fate.ASKED_AGAIN)
    world.finish(two)

    assert (one.log.term, two.log.term) == (1, 2)


def test_a_store_that_overwrites_breaks_the_history() -> None:
    """The proof that this file would notice: the same pause as above, on a store that ignores the condition."""
    world = World(conditional=False)
    old, new, _ = world.writers
    world.do(old, Act.CLAIM, Act.OPEN)
    world.begin(old, Act.COMMIT)
    world.do(new, Act.CLAIM, Act.OPEN)

    world.finish(old)

    with pytest.raises(IllegalEntry):
        fold(world.entries())
    world.close()
