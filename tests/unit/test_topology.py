"""Ranks in the order of where their nodes are."""

from __future__ import annotations

import pytest

from tessera_coordinator.core.formation import Wanted, draft
from tests.unit.test_silence import LIMITS, before, names, offer

RACKS = {"n0": "a", "n1": "b", "n2": "a", "n3": "b", "n4": "c"}


def placed(count: int, **places: str) -> Wanted:
    return Wanted(count, 1, ordered=True, places=places)


def test_neighbours_in_rank_are_brought_together_by_place() -> None:
    nodes = [offer(1), offer(0), offer(3), offer(2)]

    assert names(draft(nodes, None, placed(4, **RACKS), LIMITS, 0.0)) == ["n0", "n2", "n1", "n3"]


def test_places_keep_their_order_from_generation_to_generation_and_a_new_one_comes_last() -> None:
    nodes = [offer(0), offer(1), offer(2), offer(3), offer(4)]

    after = names(draft(nodes, before(1, 9, 0), placed(5, **RACKS), LIMITS, 0.0))

    assert after == ["n1", "n3", "n0", "n2", "n4"]


def test_who_trains_is_decided_before_places_count() -> None:
    nodes = [offer(1), offer(0), offer(2)]

    assert names(draft(nodes, before(1), placed(2, **RACKS), LIMITS, 0.0)) == ["n1", "n0"]


@pytest.mark.parametrize(
    ("waited", "expected"), [(LIMITS.arrival_patience - 1, None), (LIMITS.arrival_patience, ["n1", "n0"])]
)
def test_the_first_generation_waits_for_the_places_of_its_nodes(waited: float, expected: list[str] | None) -> None:
    wanted = placed(2, n1="b")

    found = draft([offer(0), offer(1)], None, wanted, LIMITS, waited)

    assert names(found) == (sorted(expected) if expected else None)
    assert names(draft([offer(0), offer(1)], before(0), wanted, LIMITS, 0.0)) == ["n0", "n1"], "a later one does not"


def test_without_a_label_nobody_is_waited_for() -> None:
    assert names(draft([offer(0), offer(1)], None, Wanted(2, 2), LIMITS, 0.0)) == ["n0", "n1"]
