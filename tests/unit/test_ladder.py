"""What comes back climbs the ladder, rung by rung; only what a program can be at fault for ends a run, and only without
a new best step."""

from __future__ import annotations

import pytest

from tessera_api.failure import FailureClass, Rung
from tessera_api.incident import Incident
from tessera_coordinator.core.causes import Cause
from tessera_coordinator.core.failures import POLICIES
from tessera_coordinator.core.ladder import Ladder, Ruling

CRASH, USER, HANG = FailureClass.WORKER_CRASH, FailureClass.USER_ERROR, FailureClass.HANG
LOST = FailureClass.LOST_NODE
NAMED = [Rung.RESTART, Rung.RE_FORM, Rung.REPLACE, Rung.ELSEWHERE, Rung.ELSEWHERE, Rung.END]


def cause(failure: FailureClass, place: str = "", node: str | None = "node-0", rank: int = 0) -> Cause:
    """A failure of that class, met at that place on that node by that rank."""
    nodes, ranks = (frozenset([node]), frozenset([rank])) if node else (frozenset[str](), frozenset[int]())
    return Cause(failure, place, node, rank, "broken", nodes=nodes, ranks=ranks)


def climbed(ladder: Ladder, *ends: tuple[Cause, int]) -> list[Ruling]:
    """One generation after the other: what it ended of, and the highest step it reached."""
    best, rulings = -1, []
    for found, highest in ends:
        ladder.over(highest)
        rulings.append(ladder.climb(found, highest, best))
        best = max(best, highest)
    return rulings


def rungs(*ends: tuple[Cause, int]) -> list[Rung]:
    return [ruling.rung for ruling in climbed(Ladder(), *ends)]


def test_a_crash_that_comes_back_climbs_one_rung_each_time_and_three_at_the_top_end_the_run() -> None:
    assert rungs(*[(cause(CRASH, "SIGSEGV"), 7)] * 6) == NAMED
    assert rungs(*[(cause(CRASH, "SIGSEGV"), -1)] * 6) == NAMED


def test_where_no_node_is_to_blame_all_are_replaced() -> None:
    unnamed = cause(HANG, "hang in phase train", None)

    assert rungs(*[(unnamed, -1)] * 5) == [Rung.RE_FORM, *[Rung.ELSEWHERE] * 3, Rung.END]


def test_what_repeats_on_another_node_is_the_programs_and_ends_the_run() -> None:
    first, other = cause(CRASH, "train.py:3 KeyError"), cause(CRASH, "train.py:3 KeyError", "node-3")

    told = climbed(Ladder(), (first, -1), (first, -1), (first, -1), (other, -1))

    assert [ruling.rung for ruling in told] == [*NAMED[:3], Rung.END]
    assert told[-1].cause.failure is USER
    assert told[-1].remedy.startswith("4 generations in a row ended without a new step: mend this")
    assert "train.py:3 KeyError (broken)" in told[-1].remedy


def test_the_users_error_ends_the_run_the_third_time() -> None:
    told = climbed(Ladder(), *[(cause(USER, "train.py:3 KeyError"), -1)] * 3)

    assert [ruling.rung for ruling in told] == [Rung.RESTART, Rung.RESTART, Rung.END]
    assert "train.py:3 KeyError" in told[-1].remedy


def test_what_comes_back_after_other_steps_is_tried_longer() -> None:
    leaks = [(A, 50 - number) for number in range(9)]

    told = rungs(*leaks)

    assert told == [*NAMED[:3], *[Rung.ELSEWHERE] * 4, Rung.END, Rung.END]


def test_failures_at_one_line_that_have_no_node_and_no_rank_in_common_may_be_chance() -> None:
    apart = [(cause(CRASH, "a", f"node-{number}", number), 9) for number in range(16)]

    told = rungs(*apart)

    assert told == [*[Rung.RESTART] * 15, Rung.END]


def test_a_permanent_one_ends_it_at_once() -> None:
    found = Cause(USER, "exit code 64", "node-0", 0, "no such dataset", permanent=True)

    told = climbed(Ladder(), (found, -1))

    assert told[0].rung is Rung.END
    assert told[0].remedy == "mend this, then start the run again: exit code 64 (no such dataset)"


A, B = cause(CRASH, "a"), cause(CRASH, "b")


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param([(A, -1), (B, -1)] * 20, id="other places"),
        pytest.param([(A, step) for step in range(40)], id="a new best step each time"),
        pytest.param([(A, 5), (A, 5), (A, 5), (A, 6)] * 1, id="a new best step in between"),
        pytest.param([*[(A, -1)] * 5, (cause(LOST), -1), *[(A, -1)] * 5], id="infrastructure in between"),
        *(
            pytest.param([(cause(failure, "same"), -1)] * 100, id=f"{failure.value} alone")
            for failure in FailureClass
            if POLICIES[failure].tries is None
        ),
    ],
)
def test_these_never_end_the_run(ends: list[tuple[Cause, int]]) -> None:
    assert Rung.END not in rungs(*ends)


def test_after_progress_it_begins_at_the_first_rung() -> None:
    assert rungs((A, -1), (A, -1), (A, 4), (A, 4)) == [Rung.RESTART, Rung.RE_FORM, Rung.RESTART, Rung.RE_FORM]


def test_what_says_nothing_of_its_place_is_not_known_to_come_back() -> None:
    assert rungs(*[(cause(CRASH), -1)] * 10) == [Rung.RESTART] * 10


def test_where_nothing_is_known_nobody_has_to_prove_anything() -> None:
    unknown = FailureClass.UNKNOWN

    assert rungs((cause(unknown, node=None), -1), (cause(unknown), -1)) == [Rung.RESTART, Rung.RE_FORM]


def test_a_coordinator_that_takes_over_climbs_on() -> None:
    written = [
        Incident(
            number=number,
            cause="node-0: its workers ended",
            nodes=("node-0",),
            detected=1.0,
            generation_before=number,
            highest_step_before=9,
            failure=CRASH,
            place="a",
            node="node-0",
        )
        for number in (1, 2, 3)
    ]

    assert Ladder.resumed(written).climb(A, 9, 9).rung is Rung.ELSEWHERE
    assert Ladder.resumed(written).climb(A, 10, 9).rung is Rung.RESTART


def test_generations_without_a_step_follow_each_other_ever_slower_and_one_step_makes_it_good() -> None:
    ladder, pauses = Ladder(), []
    for highest in (*[-1] * 10, 4, -1):
        ladder.over(highest)
        pauses.append(ladder.pause_s)

    assert pauses == [0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 0.0, 0.0]


def test_pauses_differ_from_run_to_run_by_up_to_a_half() -> None:
    ladder = Ladder(lambda: 0.0)
    for _ in range(20):
        ladder.over(-1)

    assert ladder.pause_s == 30.0


def test_every_class_has_a_policy_and_infrastructure_ends_no_run() -> None:
    endless = {failure for failure, policy in POLICIES.items() if policy.tries is None}

    assert set(POLICIES) == set(FailureClass)
    assert endless >= {LOST, FailureClass.PREEMPTION, FailureClass.STORAGE, FailureClass.SICK_DEVICE}
    assert all(policy.remedy for policy in POLICIES.values() if policy.tries is not None)
