"""The tree over units is one tree, whatever the world size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_trainer.units import Node, TreeFold, UnitPlan, combine

UNITS = st.integers(1, 70)


def plans() -> st.SearchStrategy[UnitPlan]:
    return UNITS.flatmap(lambda units: st.integers(1, units).map(lambda world: UnitPlan(units, world)))


def written(left: str, right: str) -> str:
    return f"({left}+{right})"


def tree_sum(plan: UnitPlan) -> str:
    """What the ranks of a plan compute together, as a formula."""
    parts: dict[Node, str] = {}
    for rank in range(plan.world_size):
        fold = TreeFold[str](plan.units, written)
        for unit in plan.of(rank):
            fold.push(unit, str(unit))
        cover = plan.cover(rank)
        parts |= zip(cover, fold.take(cover), strict=True)
    return combine(parts, plan.root, written)


@given(plans())
def test_ranks_share_out_the_units_in_order(plan: UnitPlan) -> None:
    assert [unit for rank in range(plan.world_size) for unit in plan.of(rank)] == list(range(plan.units))


@given(plans())
def test_no_rank_has_more_than_one_unit_more_than_another(plan: UnitPlan) -> None:
    sizes = [len(plan.of(rank)) for rank in range(plan.world_size)]
    assert max(sizes) == plan.steps
    assert min(sizes) >= max(1, plan.steps - 1)


@given(plans())
def test_covers_partition_the_units(plan: UnitPlan) -> None:
    covered = [unit for rank in range(plan.world_size) for node in plan.cover(rank) for unit in range(*node)]
    assert covered == list(range(plan.units))


@given(plans())
def test_the_sum_is_the_same_formula_at_every_world_size(plan: UnitPlan) -> None:
    assert tree_sum(plan) == tree_sum(UnitPlan(plan.units, 1))


@given(UNITS)
def test_a_fold_keeps_few_values(units: int) -> None:
    fold = TreeFold[int](units, lambda left, right: left + right)
    kept = []
    for unit in range(units):
        fold.push(unit, 1)
        kept.append(len(fold._stack))
    assert max(kept) <= units.bit_length()
    assert fold.take((Node(0, units),)) == (units,)


@pytest.mark.parametrize(
    ("units", "formula"),
    [(1, "0"), (3, "((0+1)+2)"), (6, "(((0+1)+(2+3))+(4+5))"), (7, "(((0+1)+(2+3))+((4+5)+6))")],
)
def test_the_tree_is_cut_at_powers_of_two(units: int, formula: str) -> None:
    assert tree_sum(UnitPlan(units, 1)) == formula


@pytest.mark.parametrize(
    ("units", "world", "aligned", "busy"),
    [
        (6, 1, True, 1.0),
        (6, 2, False, 1.0),
        (6, 3, True, 1.0),
        (6, 4, True, 0.75),
        (6, 5, True, 0.6),
        (8, 4, True, 1.0),
        (6, 6, True, 1),
    ],
)
def test_alignment_and_busy_share_follow_from_the_plan(units: int, world: int, aligned: bool, busy: float) -> None:
    plan = UnitPlan(units, world)
    assert (plan.aligned, plan.busy_share) == (aligned, busy)


def test_more_ranks_than_units_are_refused() -> None:
    with pytest.raises(ValueError, match="3 units cannot be shared out to 4 ranks"):
        UnitPlan(3, 4)


def test_a_unit_that_comes_twice_is_noticed() -> None:
    fold = TreeFold[int](4, lambda left, right: left + right)
    for unit in (0, 1, 1):
        fold.push(unit, 1)
    with pytest.raises(ValueError, match="a unit came not once"):
        fold.take((Node(0, 2),))
