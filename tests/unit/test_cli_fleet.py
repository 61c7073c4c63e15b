"""When a local run's nodes are started, replaced and given up. Seconds are made up."""

from __future__ import annotations

import signal

from tessera_api.exit_codes import ExitCode
from tessera_cli.fleet import Fleet, Start, Verdict
from tessera_coordinator.attendance import Attendance

KILLED = -int(signal.SIGKILL)


def running(slots: int) -> Fleet:
    """A fleet whose first nodes have been started at 0."""
    fleet = Fleet(slots)
    fleet.starts(0.0)
    return fleet


def test_a_fleet_begins_with_a_node_in_every_slot() -> None:
    assert Fleet(3).starts(0.0) == [Start(0, "node-0"), Start(1, "node-1"), Start(2, "node-2")]


def test_a_dead_node_is_replaced_at_once_in_its_slot_under_the_next_number() -> None:
    fleet = running(2)
    assert fleet.ended("node-0", KILLED, lived=60.0, now=60.0) == Verdict(0.0)
    assert fleet.starts(60.0) == [Start(0, "node-2")]


def test_a_node_that_dies_at_once_again_and_again_is_waited_for_twice_as_long_each_time() -> None:
    fleet, now, waits = Fleet(1), 0.0, []
    for number in range(8):
        fleet.starts(now)
        waits.append(fleet.ended(f"node-{number}", 1, lived=0.5, now=now).wait)
        now = fleet.next_due() or now
    assert waits == [0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_node_that_lived_long_makes_good_for_those_that_died_at_once() -> None:
    fleet = Fleet(1)
    for number in range(3):
        fleet.starts(0.0)
        fleet.ended(f"node-{number}", KILLED, lived=1.0, now=0.0)
    fleet.starts(0.0)
    fleet.ended("node-3", KILLED, lived=11.0, now=0.0)
    fleet.starts(0.0)
    assert fleet.ended("node-4", KILLED, lived=1.0, now=0.0) == Verdict(0.0)


def test_a_slot_whose_nodes_all_die_at_once_is_given_up() -> None:
    fleet, now = Fleet(1), 0.0
    verdicts = []
    for number in range(12):
        fleet.starts(now)
        verdicts.append(fleet.ended(f"node-{number}", 1, lived=0.5, now=now))
        now = fleet.next_due() or now
    assert [verdict.wait is None for verdict in verdicts] == [False] * 11 + [True]
    assert (fleet.places, fleet.next_due()) == (0, None)


def test_an_unfit_node_is_tried_three_times_however_long_its_proof_takes() -> None:
    fleet = Fleet(1)
    for number in range(2):
        fleet.starts(0.0)
        assert fleet.ended(f"node-{number}", ExitCode.UNFIT, lived=30.0, now=0.0).wait == 0.0
    fleet.starts(0.0)
    assert fleet.ended("node-2", ExitCode.UNFIT, lived=30.0, now=0.0) == Verdict(
        None, "its place is given up after 3 tries: none could work"
    )


def test_a_node_that_is_no_longer_counted_is_supplemented_once_and_not_replaced_when_it_ends() -> None:
    fleet = running(1)
    assert fleet.supplement("node-0", 5.0)
    assert not fleet.supplement("node-0", 6.0)
    assert fleet.starts(6.0) == [Start(0, "node-1")]
    assert fleet.ended("node-0", KILLED, lived=9.0, now=9.0) == Verdict(None)
    assert fleet.starts(100.0) == []


def attend(attendance: Attendance, present: str, now: float, alive: str = "ab") -> list[str]:
    """An answer that names these nodes (one letter each)."""
    return attendance.answered(frozenset(present), frozenset(alive), now)


def test_a_living_node_is_missed_once_it_was_counted_and_then_not_for_the_whole_patience() -> None:
    attendance = Attendance(patience=5.0)
    attend(attendance, "ab", 0.0)
    assert [attend(attendance, "a", now) for now in (1.0, 5.9, 6.0)] == [[], [], ["b"]]


def test_a_node_that_was_never_counted_is_still_starting() -> None:
    attendance = Attendance(patience=5.0)
    assert [attend(attendance, "a", now) for now in (0.0, 60.0)] == [[], []]


def test_a_dead_node_is_not_missed() -> None:
    attendance = Attendance(patience=5.0)
    attend(attendance, "ab", 0.0)
    assert [attend(attendance, "a", now, alive="a") for now in (1.0, 7.0)] == [[], []]


def test_a_coordinator_that_was_away_gives_the_nodes_time_to_return() -> None:
    attendance = Attendance(patience=5.0)
    attend(attendance, "ab", 0.0)
    attend(attendance, "a", 1.0)
    attendance.interrupted()
    assert [attend(attendance, "a", now) for now in (8.0, 12.0, 13.0)] == [[], [], ["b"]]
