"""The one writer of log entries: patient with a storage that is away, never twice, and obedient to a newer term."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tessera_coordinator.scribe
from tessera_api.log import Commit, Member, Open, Retire, StoreAddress
from tessera_coordinator.core.history import History
from tessera_coordinator.run_log import Ruled, RunLog, Superseded
from tessera_coordinator.scribe import Job, Scribe
from tessera_store import ObjectInfo, Store, StoreUnavailable, open_store

LIMIT_S = 20.0


class AwayStore:
    """A real store behind a line that breaks: the next `before` creations fail undone, the next `after` fail done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before = self.after = 0
        self.asked: list[str] = []

    @property
    def uri(self) -> str:
        return self._store.uri

    def create(self, name: str, data: bytes) -> None:
        self.asked.append(name)
        if self.before:
            self.before -= 1
            raise StoreUnavailable("the network is away")
        self._store.create(name, data)
        if self.after:
            self.after -= 1
            raise StoreUnavailable("the answer was lost")

    def put(self, name: str, data: bytes | Path) -> None:
        self._store.put(name, data)

    def get(self, name: str) -> bytes:
        return self._store.get(name)

    def get_range(self, name: str, start: int, length: int) -> bytes:
        return self._store.get_range(name, start, length)

    def download(self, name: str, path: Path) -> None:
        self._store.download(name, path)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def size(self, name: str) -> int:
        return self._store.size(name)

    def info(self, name: str) -> ObjectInfo:
        return self._store.info(name)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tessera_coordinator.scribe, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> AwayStore:
    return AwayStore(open_store(tmp_path.as_uri()))


@pytest.fixture
def log(store: AwayStore) -> RunLog:
    """Of term 1, with generation 1 open."""
    log = RunLog(store)
    log.claim("here", 0.0)
    log.append(opening(1))
    store.asked.clear()
    return log


def opening(generation: int) -> Open:
    member = Member(node="a", incarnation="1", processes=1)
    store = StoreAddress(host="h", port=1)
    return Open(term=1, generation=generation, members=(member,), store=store, nonce="ab", time=0.0)


def commit(step: int, generation: int = 1) -> Commit:
    return Commit(term=1, generation=generation, step=step, position=step, objects=(), time=0.0)


def carried_out(
    log: RunLog, *jobs: tuple[Callable[[History], Ruled | None], Callable[[], bool]]
) -> tuple[list[Ruled | None], list[str | None]]:
    """What became of each job, and the trouble that was told."""
    told: list[Ruled | None] = []
    trouble: list[str | None] = []

    async def story() -> None:
        scribe = Scribe(log)
        scribe.on_trouble = trouble.append
        all_done = asyncio.Event()

        def done(entry: Ruled | None) -> None:
            told.append(entry)
            if len(told) == len(jobs):
                all_done.set()

        for make, wanted in jobs:
            scribe.write(Job(make, done, wanted))
        running = asyncio.ensure_future(scribe.run())
        waiting = asyncio.ensure_future(all_done.wait())
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            await running
        running.cancel()

    asyncio.run(story())
    return told, trouble


def test_a_coordinator_with_nothing_to_write_ends_itself_once_another_leads(
    log: RunLog, store: AwayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tessera_coordinator.scribe, "LOOK_SECONDS", 0.01)

    async def story() -> None:
        running = asyncio.ensure_future(Scribe(log).run())
        RunLog(store).claim("another", 0.0)
        async with asyncio.timeout(LIMIT_S):
            await running

    with pytest.raises(Superseded, match="term 2 was claimed by another"):
        asyncio.run(story())


def always() -> bool:
    return True


def entries(store: AwayStore) -> int:
    return len(list(store.list("log/")))


def test_jobs_are_written_in_their_order_each_judged_by_the_history_then(log: RunLog, store: AwayStore) -> None:
    seen: list[tuple[int, ...]] = []

    def retire(history: History) -> Ruled:
        seen.append(history.steps())
        return Retire(term=1, steps=(5,), time=0.0)

    told, trouble = carried_out(log, (lambda _: commit(5), always), (lambda _: commit(6), always), (retire, always))

    assert (told, trouble) == ([commit(5), commit(6), Retire(term=1, steps=(5,), time=0.0)], [])
    assert (seen, log.history.steps(), entries(store)) == ([(5, 6)], (6,), 5)


def test_a_void_job_writes_nothing_and_says_so(log: RunLog, store: AwayStore) -> None:
    assert carried_out(log, (lambda _: None, always), (lambda _: commit(5), lambda: False)) == ([None, None], [])
    assert store.asked == []


def test_while_storage_is_away_the_same_entry_is_tried_again_and_trouble_is_told_once(
    log: RunLog, store: AwayStore
) -> None:
    store.before = 3
    made: list[int] = []

    def make(history: History) -> Ruled:
        made.append(history.length)
        return commit(5)

    assert carried_out(log, (make, always)) == ([commit(5)], ["the network is away", None])
    assert (made, len(store.asked), entries(store)) == ([2], 4, 3)


def test_an_entry_whose_answer_was_lost_is_found_and_not_written_twice(log: RunLog, store: AwayStore) -> None:
    store.after = 1

    told, trouble = carried_out(log, (lambda _: commit(5), always), (lambda _: commit(6), always))

    assert (told, trouble) == ([commit(5), commit(6)], ["the answer was lost", None])
    assert (log.history.steps(), entries(store)) == ((5, 6), 4)


def test_a_job_that_is_no_longer_wanted_is_dropped_and_the_next_one_is_written(log: RunLog, store: AwayStore) -> None:
    store.before = 1
    once = iter((True,))

    told, trouble = carried_out(log, (lambda _: commit(5), lambda: next(once, False)), (lambda _: commit(6), always))

    assert (told, trouble) == ([None, commit(6)], ["the network is away", None])
    assert log.history.steps() == (6,)


def test_a_commit_of_a_generation_that_was_replaced_is_void_and_the_scribe_goes_on(log: RunLog) -> None:
    told, _ = carried_out(
        log, (lambda _: opening(2), always), (lambda _: commit(5), always), (lambda _: commit(6, 2), always)
    )

    assert told == [opening(2), None, commit(6, 2)]


def test_a_newer_term_ends_it(log: RunLog, store: AwayStore) -> None:
    RunLog(store).claim("another", 0.0)

    with pytest.raises(Superseded, match="term 2 was claimed by another"):
        carried_out(log, (lambda _: commit(5), always))
