"""Slow ranks: who is named, and who is not; and what of a step counts as a rank's own work."""

from __future__ import annotations

import random

import pytest
import torch

from tessera_trainer.slow_ranks import LIMIT, STEPS, SlowRanks
from tessera_trainer.waits import Waits


def after(steps: int, seconds: list[float], units: list[int] | None = None) -> SlowRanks:
    ranks = SlowRanks()
    for _ in range(steps):
        ranks.step(seconds, units or [2] * len(seconds))
    return ranks


def test_a_rank_that_is_slow_step_after_step_is_named_with_its_score() -> None:
    assert after(STEPS, [1.0, 2.0, 1.0, 1.1]).named() == {1: pytest.approx(2.0 / 1.05, abs=1e-3)}


def test_nobody_is_named_before_enough_steps_were_seen() -> None:
    assert after(STEPS - 1, [1.0, 2.0, 1.0]).named() == {}


def test_a_few_slow_steps_name_nobody() -> None:
    ranks = SlowRanks()
    for step in range(STEPS):
        ranks.step([1.0, 9.0 if step % 3 == 0 else 1.0, 1.0], [1, 1, 1])
    assert ranks.named() == {}


def test_a_rank_that_has_recovered_is_named_no_more() -> None:
    ranks = after(STEPS, [1.0, 2.0, 1.0])
    for _ in range(STEPS // 2 + 1):
        ranks.step([1.0, 1.0, 1.0], [1, 1, 1])
    assert ranks.named() == {}


def test_more_units_are_no_slowness() -> None:
    assert after(STEPS, [3.0, 2.0, 2.0], [3, 2, 2]).named() == {}


def test_of_two_ranks_nobody_can_tell_who_is_slow() -> None:
    assert after(STEPS, [1.0, 5.0]).named() == {}


def test_a_rank_without_units_is_not_judged() -> None:
    assert after(STEPS, [0.0, 1.0, 1.0, 1.0], [0, 1, 1, 1]).named() == {}


def test_the_slowest_come_first() -> None:
    assert list(after(STEPS, [2.0, 3.0, 1.0, 1.0, 1.0]).named()) == [1, 0]


def test_noise_that_all_have_names_nobody() -> None:
    chance, ranks, named = random.Random(1), SlowRanks(), 0
    for _ in range(2000):
        ranks.step([chance.lognormvariate(0.0, 0.2) for _ in range(64)], [4] * 64)
        named += bool(ranks.named())
    assert named == 0
    assert LIMIT > 1.0


def test_waits_are_summed_and_counted_once() -> None:
    times = iter([10.0, 10.5, 20.0, 21.0, 30.0, 30.25])
    waits = Waits(torch.device("cpu"), clock=lambda: next(times))
    with waits.waiting():
        pass
    with waits.waiting():
        pass
    assert waits.take() == 1.5
    assert waits.take() == 0.0
    with waits.waiting():
        pass
    assert waits.take() == 0.25
