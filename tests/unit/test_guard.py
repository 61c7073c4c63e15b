"""The loss guard: what it does about which numbers, and that it does nothing about healthy ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache

import pytest

from tessera_run import Rewound
from tessera_trainer.guard import BEFORE, SAME_PLACE, GoBack, LossDiverged, LossGuard
from tessera_trainer.guard_rule import (
    DRIFT_SPAN,
    ENOUGH,
    MOST_LEFT_OUT,
    RECENT,
    WILD_IN_A_ROW,
    GuardState,
    Looked,
    Rule,
    Verdict,
)
from tessera_trainer.second_opinion import Doubt, doubt_of
from tessera_trainer.units import UnitPlan

FAULT_AT = 600


def course(extra: Callable[[int], float], steps: int, rule: Rule | None = None) -> list[Looked]:
    """What came of each step: a loss that falls slowly, its noise, and something more from `FAULT_AT` on."""
    chance, state, told = random.Random(5), GuardState(), list[Looked]()
    for step in range(1, steps + 1):
        loss = 2.5 + 8.0 * math.pow(step + 10, -0.35) + chance.gauss(0.0, 0.03) + extra(step - FAULT_AT)
        told.append((rule or Rule()).look(state, step, loss, math.exp(chance.gauss(-1.0, 0.3))))
        state = told[-1].state
    return told


@cache
def healthy(steps: int) -> GuardState:
    """What is known after so many steps of which nothing is to be said."""
    return course(lambda _: 0.0, steps)[-1].state


def first(told: list[Looked], what: Verdict) -> tuple[int, Looked]:
    return next((step, one) for step, one in enumerate(told, 1) if one.verdict is what)


def after(since: int, value: float) -> float:
    return value if since >= 0 else 0.0


def test_healthy_numbers_are_taken() -> None:
    assert {(one.verdict, one.words) for one in course(lambda _: 0.0, 1500)} == {(Verdict.TAKE, "")}


@pytest.mark.parametrize(
    ("extra", "within"),
    [
        (lambda since: after(since, 3.0 * math.exp(-since / 200.0)), 5 * 5),
        (lambda since: after(since, 2.0 * min(1.0, since / 100.0)), 5 * 30),
    ],
    ids=["a jump that decays", "a ramp"],
)
def test_a_sustained_rise_means_going_back_behind_its_onset(extra: Callable[[int], float], within: int) -> None:
    step, looked = first(course(extra, FAULT_AT + within), Verdict.GO_BACK)

    assert FAULT_AT - RECENT <= looked.onset <= FAULT_AT + 20 <= step + 20
    assert "the median loss of 8 steps is" in looked.words


def test_a_step_that_is_no_number_is_left_out_and_known_to_no_window() -> None:
    told = course(lambda since: math.nan if since == 0 else 0.0, FAULT_AT + 50)

    assert [step for step, one in enumerate(told, 1) if one.verdict is not Verdict.TAKE] == [FAULT_AT]
    assert all(map(math.isfinite, told[-1].state.losses))
    assert told[-1].state.left_out == (FAULT_AT,)


@pytest.mark.parametrize(
    ("loss", "norm", "verdict"),
    [
        (9.0, 40.0, Verdict.LEAVE_OUT),
        (9.0, 0.4, Verdict.TAKE),
        (3.0, 400.0, Verdict.TAKE),
        (3.0, math.inf, Verdict.LEAVE_OUT),
    ],
    ids=["both far out", "the loss alone", "the norm alone", "a norm that is no number"],
)
def test_a_single_step_is_wild_by_loss_and_norm_together(loss: float, norm: float, verdict: Verdict) -> None:
    state = healthy(FAULT_AT)

    assert Rule().look(state, FAULT_AT + 1, loss, norm).verdict is verdict


def test_before_it_knows_enough_only_what_is_no_number_is_left_out() -> None:
    state = healthy(ENOUGH - 1)

    assert Rule().look(state, ENOUGH, 99.0, 99.0).verdict is Verdict.TAKE
    assert Rule().look(state, ENOUGH, math.inf, 1.0).verdict is Verdict.LEAVE_OUT


def test_wild_steps_in_a_row_are_no_accident() -> None:
    told = course(lambda since: after(since, math.nan), FAULT_AT + WILD_IN_A_ROW)

    step, looked = first(told, Verdict.GO_BACK)
    assert (step, looked.onset) == (FAULT_AT + WILD_IN_A_ROW - 1, FAULT_AT)


def test_too_many_wild_steps_are_no_accident_either() -> None:
    told = course(lambda since: math.nan if since >= 0 and since % 20 == 0 else 0.0, FAULT_AT + 400)

    step, looked = first(told, Verdict.GO_BACK)
    assert (step, looked.onset) == (FAULT_AT + 20 * MOST_LEFT_OUT, FAULT_AT)


def test_a_slow_drift_is_told_once_and_nothing_is_done() -> None:
    told = course(lambda since: after(since, min(1.0, since / 1000.0)), FAULT_AT + DRIFT_SPAN)

    said = [step for step, one in enumerate(told, 1) if one.words]
    assert {one.verdict for one in told} == {Verdict.TAKE}
    assert len(said) == 1
    assert FAULT_AT < said[0] <= FAULT_AT + DRIFT_SPAN


def test_what_is_declared_is_no_rise() -> None:
    def stage(since: int) -> float:
        return after(since, 0.8)

    assert Verdict.GO_BACK in {one.verdict for one in course(stage, FAULT_AT + 300)}
    declared = Rule(frozenset({FAULT_AT}))
    assert {one.verdict for one in course(stage, FAULT_AT + 300, declared)} == {Verdict.TAKE}


def test_the_state_survives_a_checkpoint_to_the_bit() -> None:
    state = healthy(700)

    guard = LossGuard(Rule(), ())
    guard.begin(state.canonical().decode())

    assert GuardState.model_validate_json(guard.text()) == state
    assert len(guard.text()) < 16 << 10


def risen(*rewinds: Rewound, acts: bool = True) -> LossGuard:
    """A guard that has just seen a rise, at `FAULT_AT`."""
    guard = LossGuard(Rule(), rewinds, acts=acts)
    guard.begin(healthy(FAULT_AT - 1).canonical().decode())
    for step in range(FAULT_AT, FAULT_AT + WILD_IN_A_ROW):
        guard.accepts(step, math.nan, 1.0)
    return guard


def test_the_first_time_training_goes_back_and_the_second_time_it_goes_slower_too() -> None:
    step, behind = FAULT_AT + WILD_IN_A_ROW - 1, FAULT_AT - BEFORE
    before = Rewound(behind, step, slower=False)
    elsewhere = Rewound(10, FAULT_AT - SAME_PLACE - 1, slower=True)

    assert risen().plan(step) == GoBack(behind, behind, slower=False)
    assert risen(elsewhere).plan(step) == GoBack(behind, behind, slower=False)
    assert risen(before).plan(step) == GoBack(behind, behind, slower=True)


def test_the_third_time_it_stops_and_says_so() -> None:
    step = FAULT_AT + WILD_IN_A_ROW - 1
    before = [Rewound(500, step, slower=False), Rewound(500, step, slower=True)]

    with pytest.raises(LossDiverged, match=r"training went back 2 times.*lower training\.learningRate"):
        risen(*before).plan(step)


def test_the_rate_is_half_from_where_training_went_back_to_more_slowly() -> None:
    guard = LossGuard(
        Rule(), (Rewound(100, 230, slower=True), Rewound(300, 400, slower=False), Rewound(350, 410, True))
    )

    assert [guard.rate_share(step) for step in (99, 100, 349, 350)] == [1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("norm", [0.4, 40.0], ids=["a rise", "wild steps"])
def test_where_it_may_only_tell_steps_are_taken_and_it_is_said_once(norm: float) -> None:
    guard = LossGuard(Rule(), (), acts=False)
    guard.begin(healthy(FAULT_AT - 1).canonical().decode())
    said = []

    for step in range(FAULT_AT, FAULT_AT + 40):
        assert guard.accepts(step, 9.0, norm)
        assert guard.looked.verdict is Verdict.TAKE
        said += [guard.looked.words] if guard.looked.words else []

    assert len(said) == 1


def test_where_it_may_only_tell_numbers_that_are_none_are_left_out_and_many_end_the_run() -> None:
    guard = risen(acts=False)

    assert not guard.accepts(FAULT_AT + 20, math.nan, 0.4)
    with pytest.raises(LossDiverged, match=r"let the guard act \(training\.lossGuard: Act\)"):
        guard.plan(FAULT_AT + 20)


def test_a_unit_whose_loss_is_no_number_is_its_ranks() -> None:
    plan = UnitPlan(6, 3)

    assert doubt_of([1.0, 1.0, 1.0, math.nan, math.nan, 1.0], plan) == Doubt(unit=3, owner=1)
    assert doubt_of([1.0] * 6, plan) is None
