"""Which checkpoints stay, which objects may go, and that exactly these are deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.log import Claim, Commit, Entry, Member, Open, ResumePoint, Retire, Rewind, StoreAddress, StoredObject
from tessera_coordinator.core.history import History, fold
from tessera_coordinator.garbage import REWIND_SPAN_STEPS, Collector, deletable, retention
from tessera_store import open_store

MEMBERS = (Member(node="node-1", incarnation="a", processes=1),)
STORE = StoreAddress(host="127.0.0.1", port=29500)
CLAIM = Claim(term=1, holder="here", time=0.0)


def part(step: int, generation: int) -> str:
    prefix = CheckpointPrefix(step=step, term=1, generation=generation, nonce=f"n{generation}")
    return part_name(prefix, 0, 1)


def opened(generation: int, resume: Commit | None = None) -> Open:
    point = None
    if resume is not None:
        point = ResumePoint(step=resume.step, position=resume.position, objects=resume.objects)
    return Open(
        term=1,
        generation=generation,
        members=MEMBERS,
        store=STORE,
        nonce=f"n{generation}",
        resume=point,
        time=0.0,
    )


def commit(step: int, generation: int = 1) -> Commit:
    stored = StoredObject(name=part(step, generation), size=1, sha256="0" * 64)
    return Commit(term=1, generation=generation, step=step, position=step, objects=(stored,), time=0.0)


def retire(*steps: int) -> Retire:
    return Retire(term=1, steps=steps, time=0.0)


def committed(*steps: int) -> History:
    return fold((CLAIM, opened(1), *(commit(step) for step in steps)))


@pytest.mark.parametrize(
    ("steps", "retired"),
    [
        ((), ()),
        ((100,), ()),
        ((100, 200, 300, 400), (200,)),
        ((100, 200, 300, 400, 500), (300,)),
        ((100, 200, 300, 400, 500, 600), (100, 400)),
        ((50, 60, 70, 80), (60,)),
    ],
)
def test_the_newest_the_anchor_and_its_successor_stay(steps: tuple[int, ...], retired: tuple[int, ...]) -> None:
    assert retention(committed(*steps), keep=2) == retired


@given(every=st.integers(1, 1000), count=st.integers(1, 200), keep=st.integers(1, 5))
def test_there_is_always_a_checkpoint_to_go_far_back_to_and_never_too_many(every: int, count: int, keep: int) -> None:
    alive: tuple[int, ...] = ()
    for number in range(1, count + 1):
        alive = (*alive, number * every)
        gone = retention(History(commits=tuple(commit(step) for step in alive)), keep)
        alive = tuple(step for step in alive if step not in gone)

    newest = count * every
    assert len(alive) <= keep + 2
    assert set(range(max(1, count - keep + 1) * every, newest + 1, every)) <= set(alive)
    if newest - every >= REWIND_SPAN_STEPS:
        ages = [newest - step for step in alive if newest - step >= REWIND_SPAN_STEPS]
        assert min(ages) <= 2 * (REWIND_SPAN_STEPS + every)


def test_a_dead_generations_parts_go_and_what_the_open_one_writes_stays() -> None:
    entries: tuple[Entry, ...] = (CLAIM, opened(1), commit(10), opened(2, commit(10)))
    names = [part(10, 1), part(20, 1), part(20, 2), part(20, 3), "checkpoints/README", "log/00000001"]

    assert list(deletable(fold(entries), names)) == [part(20, 1)]


def test_a_retired_checkpoint_of_the_open_generation_goes() -> None:
    history = fold((CLAIM, opened(1), commit(10), commit(20), retire(10)))

    assert list(deletable(history, [part(10, 1), part(20, 1)])) == [part(10, 1)]


def test_a_step_that_was_retired_once_is_safe_while_a_later_generation_writes_it_again() -> None:
    rewind = Rewind(term=1, generation=1, to_step=10, from_step=35, reason="spike", time=0.0)
    entries = (CLAIM, opened(1), commit(10), commit(20), commit(30), retire(20), rewind, opened(2, commit(10)))

    assert list(deletable(fold(entries), [part(10, 1), part(20, 1), part(20, 2), part(30, 1)])) == [
        part(20, 1),
        part(30, 1),
    ]


def test_nothing_goes_before_a_generation_is_open() -> None:
    assert list(deletable(fold((CLAIM,)), [part(10, 1)])) == []


def test_the_collector_deletes_the_garbage_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    for name in (part(10, 1), part(20, 1), part(30, 1), "log/00000001"):
        store.put(name, b"bytes")
    history = fold((CLAIM, opened(1), commit(10), commit(20), retire(10), opened(2, commit(20))))

    assert Collector(store).collect(history) == 2

    assert [info.name for info in store.list()] == [part(20, 1), "log/00000001"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000020-1.1-n1"]
