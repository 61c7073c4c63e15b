"""The rules of the log (design.md §2.0), one sentence each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_api.log import (
    Claim,
    Commit,
    End,
    Entry,
    Member,
    Open,
    ResumePoint,
    Retire,
    Rewind,
    Skip,
    StoreAddress,
    StoredObject,
)
from tessera_coordinator.core.history import History, IllegalEntry, Retired, fold

MEMBERS = (Member(node="node-1", incarnation="a", processes=2), Member(node="node-2", incarnation="b", processes=2))
STORE = StoreAddress(host="127.0.0.1", port=29500)


def claim(term: int) -> Claim:
    return Claim(term=term, holder="here", time=0.0)


def opened(generation: int, term: int = 1, resume: int | None = None) -> Open:
    point = None if resume is None else ResumePoint(step=resume, position=resume, objects=objects(resume))
    return Open(
        term=term, generation=generation, members=MEMBERS, store=STORE, nonce=f"n{generation}", resume=point, time=0.0
    )


def objects(step: int) -> tuple[StoredObject, ...]:
    return (StoredObject(name=f"checkpoints/{step:08d}-1.1-n1/rank", size=1, sha256="0" * 64),)


def commit(step: int, generation: int = 1, term: int = 1) -> Commit:
    return Commit(term=term, generation=generation, step=step, position=step, objects=objects(step), time=0.0)


def retire(*steps: int) -> Retire:
    return Retire(term=1, steps=steps, time=0.0)


def rewind(to_step: int, from_step: int = 999, generation: int = 1) -> Rewind:
    return Rewind(term=1, generation=generation, to_step=to_step, from_step=from_step, reason="spike", time=0.0)


def skip(first: int, last: int, generation: int = 1) -> Skip:
    return Skip(term=1, generation=generation, first=first, last=last, reason="spike", time=0.0)


END = End(term=1, reason="complete", message="", time=0.0)
RUNNING: tuple[Entry, ...] = (claim(1), opened(1))


def test_a_run_from_claim_to_end() -> None:
    entries = (*RUNNING, commit(10), commit(20), retire(10), claim(2), commit(30, term=2))

    assert fold(entries) == History(
        length=7,
        term=2,
        holder="here",
        open=opened(1),
        commits=(commit(20), commit(30, term=2)),
        retired=(Retired(10, 1),),
    )


def test_a_restarted_coordinator_commits_for_the_generation_that_it_found_open() -> None:
    assert fold((*RUNNING, claim(2), commit(10, term=2))).newest == commit(10, term=2)


def test_a_rewind_gives_up_what_lies_after_it_and_the_step_can_be_committed_again() -> None:
    entries = (*RUNNING, commit(10), commit(20), rewind(10), opened(2, resume=10), commit(20, generation=2))

    assert fold(entries).commits == (commit(10), commit(20, generation=2))


def test_a_rewind_to_the_beginning_needs_no_checkpoint() -> None:
    assert fold((*RUNNING, commit(10), rewind(0), opened(2))).newest is None


def test_skips_and_the_end_are_kept() -> None:
    history = fold((*RUNNING, skip(5, 9), END))

    assert (history.skips, history.ended) == ((skip(5, 9),), END)


@pytest.mark.parametrize(
    ("before", "entry", "rule"),
    [
        ((), opened(1), "last claimed term is 0"),
        ((claim(2),), claim(2), "claimed already"),
        ((claim(2),), claim(1), "claimed already"),
        ((claim(2),), opened(1), "last claimed term is 2"),
        ((claim(1),), opened(1, term=2), "last claimed term is 1"),
        (RUNNING, opened(1), "opened before"),
        ((claim(1),), opened(1, resume=10), "no checkpoint to resume from"),
        ((*RUNNING, commit(10), commit(20)), opened(2, resume=10), "newest checkpoint, step 20"),
        ((*RUNNING, commit(10)), opened(2), "newest checkpoint, step 10"),
        ((claim(1),), commit(10), "generation 0 is open"),
        ((*RUNNING, opened(2)), commit(10), "generation 2 is open"),
        (RUNNING, commit(10, generation=2), "generation 1 is open"),
        ((*RUNNING, claim(2)), commit(10), "last claimed term is 2"),
        ((*RUNNING, commit(10)), commit(10), "later step is committed"),
        ((*RUNNING, commit(10)), commit(9), "later step is committed"),
        ((*RUNNING, commit(10), rewind(10)), commit(20), "rewound and no generation"),
        ((*RUNNING, commit(10)), rewind(5), "no checkpoint of step 5"),
        ((*RUNNING, commit(10)), rewind(10, from_step=9), "goes forward"),
        ((*RUNNING, commit(10)), rewind(10, generation=2), "generation 1 is open"),
        (RUNNING, skip(9, 9), "span is empty"),
        (RUNNING, skip(5, 9, generation=2), "generation 1 is open"),
        ((*RUNNING, commit(10), commit(20)), retire(20), "newest checkpoint"),
        ((*RUNNING, commit(10), commit(20)), retire(5), "not all of"),
        ((*RUNNING, commit(10), commit(20)), retire(10, 10), "named twice"),
        (RUNNING, retire(5), "not all of"),
        ((*RUNNING, END), claim(2), "has ended"),
        ((*RUNNING, END), commit(10), "has ended"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(before: tuple[Entry, ...], entry: Entry, rule: str) -> None:
    history = fold(before)

    with pytest.raises(IllegalEntry, match=rule):
        history.apply(history.length + 1, entry)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_an_entry_follows_the_one_before_it(number: int) -> None:
    with pytest.raises(IllegalEntry, match="entry 2 comes before it"):
        fold(RUNNING).apply(number, commit(10))


ANY_ENTRY = st.one_of(
    st.builds(claim, st.integers(1, 4)),
    st.builds(opened, st.integers(1, 4), st.integers(1, 4), st.one_of(st.none(), st.integers(0, 4))),
    st.builds(commit, st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)),
    st.builds(retire, st.integers(0, 4)),
    st.builds(rewind, st.integers(0, 4), st.integers(0, 9), st.integers(1, 4)),
)


@given(st.lists(ANY_ENTRY, max_size=40))
def test_whatever_is_offered_the_history_stays_sound(offered: list[Entry]) -> None:
    history = fold(RUNNING)
    for entry in offered:
        before = history
        try:
            history = history.apply(history.length + 1, entry)
        except IllegalEntry:
            continue
        assert (history.term, history.generation) >= (before.term, before.generation)
        assert list(history.steps()) == sorted(set(history.steps()))
        if isinstance(entry, Commit):
            assert (entry.term, entry.generation) == (before.term, before.generation)
