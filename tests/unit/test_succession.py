"""Who leads when the leader is silent: the standby's own ears, the agents' word, and its doubt of itself."""

from __future__ import annotations

import pytest

from tessera_coordinator.core.history import History
from tessera_coordinator.core.succession import Succession, first_in_line


class Standby:
    """A succession that is looked at four times a second."""

    def __init__(self) -> None:
        self.succession = Succession(0.0)
        self.now = 0.0

    def until(self, now: float, **silences: float) -> bool:
        """Whether it was time to lead at any look until `now`, while each agent says how long the leader is silent to
        it; its silence grows with the clock."""
        began, due = self.now, False
        while self.now < now:
            self.now += 0.25
            for node, silence in silences.items():
                self.succession.said(node, silence + self.now - began, self.now)
            due = self.succession.due(self.now) or due
        return due


def test_a_leader_that_is_silent_to_it_and_to_all_agents_is_followed() -> None:
    standby = Standby()

    assert not standby.until(2.75, a=0.0, b=0.0, c=0.0)
    assert standby.until(3.25, a=2.75, b=2.75, c=2.75)


def test_a_leader_that_answers_it_leads_whatever_the_agents_say() -> None:
    standby = Standby()

    for second in range(1, 20):
        standby.succession.leader_heard(standby.now)
        assert not standby.until(float(second), a=30.0, b=30.0)


@pytest.mark.parametrize(
    ("silences", "due"),
    [
        ({"a": 9.0, "b": 9.0, "c": -100.0}, True),
        ({"a": 9.0, "b": -100.0}, False),
        ({"a": 9.0, "b": -100.0, "c": -100.0}, False),
        ({"a": 9.0}, True),
        ({}, False),
    ],
    ids=["two of three", "one of two", "one of three", "the only one", "nobody is heard"],
)
def test_more_than_half_of_the_agents_that_are_heard_must_miss_it(silences: dict[str, float], due: bool) -> None:
    assert Standby().until(6.0, **silences) is due


def test_an_agent_that_died_with_the_leader_has_no_say() -> None:
    standby = Standby()
    standby.until(1.0, a=0.0, b=0.0, with_the_leader=0.0)

    assert not standby.until(2.75, a=1.0, b=1.0)
    assert standby.until(4.0, a=2.75, b=2.75)


def test_an_agent_whose_stream_has_ended_has_no_say() -> None:
    standby = Standby()
    standby.until(3.5, a=-100.0, b=-100.0, c=-100.0)
    for gone in ("a", "b"):
        standby.succession.gone(gone)
    standby.succession.said("c", 9.0, standby.now)

    assert standby.succession.due(standby.now + 0.25)


def test_time_in_which_it_was_not_awake_is_no_silence() -> None:
    standby = Standby()
    standby.until(2.0, a=0.0)
    standby.now = 20.0  # paused, with an agent's old words in its ear

    assert not standby.succession.due(standby.now)
    assert not standby.until(22.75, a=9.0)
    assert standby.until(23.25, a=9.0)


@pytest.mark.parametrize(
    ("last", "slot", "first"),
    [
        (None, None, True),
        (None, "c0", True),
        (None, "c1", False),
        ("c0", "c0", True),
        ("c0", "c1", False),
        ("c1", "c0", False),
        ("c1", "c1", True),
    ],
)
def test_who_led_last_leads_again_unless_somebody_does(last: str | None, slot: str | None, first: bool) -> None:
    assert first_in_line(History(term=0 if last is None else 3, slot=last), slot) is first
