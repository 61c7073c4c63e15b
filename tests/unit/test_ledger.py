"""The goodput ledger: every node-second has exactly one cause, and what was published never falls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_coordinator.core.ledger import Activity, Cause, Ledger, cost

SECONDS = st.floats(0.0, 1e4)
STEPS = st.integers(0, 6)
ACTIONS = st.one_of(
    st.tuples(st.just("spend"), SECONDS, st.sampled_from(Activity)),
    st.tuples(st.just("stalled"), st.floats(-10.0, 1e6), st.sampled_from(Cause)),
    st.tuples(st.just("stepped"), st.none(), STEPS),
    st.tuples(st.just("committed"), st.none(), STEPS),
    st.tuples(st.just("began"), st.none(), STEPS),
    st.tuples(st.just("lost"), st.none(), st.none()),
)


@settings(max_examples=80, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=30))
def test_every_node_second_has_one_cause_and_nothing_that_was_published_falls(
    actions: list[tuple[str, float, object]],
) -> None:
    ledger, passed = Ledger(), 0.0
    published = ledger.seconds()
    for what, amount, more in actions:
        match what, more:
            case "spend", Activity():
                ledger.spend(more, amount)
                passed += amount
            case "stalled", Cause():
                ledger.stalled(more, amount)
            case "stepped", int():
                ledger.stepped(more)
            case "committed", int():
                ledger.committed(more)
            case "began", int():
                ledger.began(more)
            case _:
                ledger.lost()
        settled = ledger.seconds()
        assert sum(settled.values()) + ledger.uncommitted == pytest.approx(passed, rel=1e-6, abs=0.01)
        assert all(settled[cause] >= published[cause] - 1e-6 for cause in published)
        published = settled
    share = ledger.goodput()
    assert share is None or 0.0 <= share <= 1.0 + 1e-9


def test_each_activity_has_its_cause_and_computing_waits_for_a_commit() -> None:
    ledger = Ledger()

    for activity in Activity:
        ledger.spend(activity, 6.0)

    nothing = dict.fromkeys((cause.value for cause in Cause), 0.0)
    direct = {"evaluation": 6.0, "start_up": 6.0, "recovery": 6.0, "spare": 6.0, "idle": 6.0}
    assert (ledger.seconds(), ledger.uncommitted) == ({**nothing, **direct}, 6.0)


def test_a_commit_settles_compute_and_the_end_of_a_generation_what_was_lost() -> None:
    ledger = Ledger()
    ledger.spend(Activity.COMPUTING, 20.0)
    ledger.stalled(Cause.DATA_WAIT, 3.0)
    ledger.stepped(10)
    ledger.committed(10)
    ledger.spend(Activity.COMPUTING, 4.0)
    ledger.began(10)

    settled = ledger.seconds()

    assert {cause: value for cause, value in settled.items() if value} == {
        "compute": 17.0,
        "data_wait": 3.0,
        "lost_work": 4.0,
    }
    assert ledger.goodput() == pytest.approx(17 / 24)
    ledger.spend(Activity.SPARE, 24.0)
    assert ledger.goodput() == pytest.approx(17 / 48)
    assert ledger.ettr() == pytest.approx(17 / 24)


def test_a_stall_is_never_more_than_what_was_computed() -> None:
    ledger = Ledger()
    ledger.spend(Activity.COMPUTING, 2.0)

    ledger.stalled(Cause.CHECKPOINT_STALL, 50.0)

    assert (ledger.seconds()["checkpoint_stall"], ledger.uncommitted) == (2.0, 0.0)


def test_what_never_passed_takes_nothing_away() -> None:
    ledger = Ledger({"idle": 4.0})

    ledger.spend(Activity.IDLE, -3.0)
    ledger.spend(Activity.COMPUTING, -3.0)

    assert (ledger.seconds()["idle"], ledger.uncommitted) == (4.0, 0.0)


def test_a_price_makes_a_cost_of_node_seconds() -> None:
    assert cost(node_seconds=5400.0, node_price=8.0) == pytest.approx(12.0)


def test_a_restarted_coordinator_goes_on_from_the_newest_line_and_ignores_causes_it_does_not_know() -> None:
    ledger = Ledger({"compute": 100.0, "added_later": 7.0}, uncommitted=3.0)

    assert {cause: value for cause, value in ledger.seconds().items() if value} == {"compute": 100.0}
    assert ledger.total == 103.0


def test_before_anything_happened_there_is_no_goodput() -> None:
    assert (Ledger().goodput(), Ledger().ettr()) == (None, None)


def test_a_commit_settles_what_came_up_to_its_step_however_late_it_is() -> None:
    ledger = Ledger()
    ledger.spend(Activity.COMPUTING, 10.0)
    ledger.stepped(10)
    ledger.spend(Activity.COMPUTING, 5.0)
    ledger.stepped(11)

    ledger.committed(10)

    assert (ledger.seconds()["compute"], ledger.uncommitted) == (10.0, 5.0)
    ledger.committed(11)
    assert (ledger.seconds()["compute"], ledger.uncommitted) == (15.0, 0.0)


def test_a_generation_that_begins_from_memory_loses_only_what_came_after_that_step() -> None:
    ledger = Ledger()
    for step in (1, 2, 3):
        ledger.spend(Activity.COMPUTING, 4.0)
        ledger.stepped(step)
    ledger.spend(Activity.COMPUTING, 1.0)

    ledger.began(2)

    assert (ledger.seconds()["lost_work"], ledger.uncommitted) == (5.0, 8.0)
    ledger.began(0)
    assert (ledger.seconds()["lost_work"], ledger.uncommitted) == (13.0, 0.0)


def test_what_passes_between_the_last_step_and_its_commit_is_no_lost_work() -> None:
    ledger = Ledger()
    ledger.spend(Activity.COMPUTING, 10.0)
    ledger.stepped(10)
    ledger.spend(Activity.COMPUTING, 0.5)

    ledger.committed(10)
    ledger.began(10)

    assert (ledger.seconds()["compute"], ledger.seconds()["lost_work"]) == (10.5, 0.0)
