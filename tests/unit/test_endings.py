"""Three generations that end at the same place without a new best step end the run; nothing else does."""

from __future__ import annotations

import pytest

from tessera_coordinator.core.endings import TRIES, Endings


def lives(endings: Endings, *generations: tuple[str | None, int]) -> list[str | None]:
    """One generation after the other: where it failed (None: it was cut short), and the highest step it reached."""
    best, told = -1, []
    for place, highest in generations:
        endings.begun(best)
        if place is not None:
            endings.failed(place, highest)
        best = max(best, highest)
        told.append(endings.over(highest))
    return told


def test_the_third_at_the_same_place_ends_it_and_the_remedy_names_the_place() -> None:
    told = lives(Endings(), ("train.py:3 KeyError", -1), ("train.py:3 KeyError", -1), ("train.py:3 KeyError", -1))

    assert [bool(remedy) for remedy in told] == [False, False, True]
    assert "train.py:3 KeyError" in str(told[-1])


def test_the_first_failure_of_a_generation_is_its_cause() -> None:
    endings = Endings()
    told = []
    for later in ("b", "c", "d"):
        endings.begun(-1)
        endings.failed("a", -1)
        endings.failed(later, -1)
        told.append(endings.over(-1))

    assert [bool(remedy) for remedy in told] == [False, False, True]


@pytest.mark.parametrize(
    "generations",
    [
        pytest.param([("a", -1), ("b", -1), ("a", -1), ("b", -1), ("a", -1)], id="other places"),
        pytest.param([("a", 1), ("a", 2), ("a", 3), ("a", 4)], id="a new best step each time"),
        pytest.param([("a", 5), ("a", 5), ("a", 6), ("a", 6)], id="a new best step in between"),
        pytest.param([("a", -1), ("a", -1), (None, -1), ("a", -1), ("a", -1)], id="infrastructure in between"),
        pytest.param([(None, -1)] * (5 * TRIES), id="infrastructure alone"),
    ],
)
def test_these_never_end_the_run(generations: list[tuple[str | None, int]]) -> None:
    assert lives(Endings(), *generations) == [None] * len(generations)


def test_generations_without_a_step_follow_each_other_ever_slower_and_one_step_makes_it_good() -> None:
    endings, pauses = Endings(), []
    for highest in (-1, -1, -1, -1, -1, -1, -1, -1, -1, 4, -1):
        lives(endings, (None, highest))
        pauses.append(endings.pause_s)

    assert pauses == [0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 0.0, 0.0]


def test_after_progress_three_more_are_needed() -> None:
    told = lives(Endings(), ("a", 5), ("a", 5), ("a", 6), ("a", 6), ("a", 6))

    assert [bool(remedy) for remedy in told] == [False, False, False, False, True]
