"""The loss guard's rule on synthetic courses: false actions on healthy ones, steps until injected faults are caught.

python benchmarks/loss_guard.py [--quick]: a JSON line a figure. Healthy: noise of several kinds (even, heavy-tailed,
bursts, wide) around losses that decay, warm up, change by 0.25 nats where that is declared, and stand still. Faults: +3
nats that decay over 200 steps, a ramp of +2 in 100, one of +1 in 500, one step that is no number.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tessera_trainer.guard_rule import GuardState, Rule, Verdict

STEPS, QUICK_STEPS = 4000, 800
SEEDS = 6
FAULT_AT = 2000
SETTLE = 400


@dataclass(frozen=True)
class Numbers:
    """Of one step."""

    loss: float
    norm: float


Noise = Callable[[random.Random], float]


def even(chance: random.Random) -> float:
    return chance.gauss(0.0, 0.03)


def heavy(chance: random.Random) -> float:
    """Student's t with three degrees of freedom."""
    square = sum(chance.gauss(0.0, 1.0) ** 2 for _ in range(3)) / 3
    return 0.03 * chance.gauss(0.0, 1.0) / math.sqrt(square)


def bursts(chance: random.Random) -> float:
    """One step in two hundred is half a nat off."""
    return chance.gauss(0.0, 0.02) + (0.5 if chance.random() < 0.005 else 0.0)


def wide(chance: random.Random) -> float:
    """A small batch."""
    return chance.gauss(0.0, 0.25)


NOISES: dict[str, Noise] = {"even": even, "heavy": heavy, "bursts": bursts, "wide": wide}


def decaying(step: int) -> float:
    return 2.5 + 8.0 * math.pow(step + 10, -0.35)


def warming(step: int) -> float:
    """Restless while the learning rate rises: up by a third of a nat, and down again."""
    return decaying(step) + 0.33 * math.exp(-(((step - 60) / 25.0) ** 2))


def standing(step: int) -> float:
    return 2.8


def staged(step: int) -> float:
    return standing(step) + (0.25 if step >= 1500 else 0.0) - (0.4 if step >= 3000 else 0.0)


COURSES: dict[str, tuple[Callable[[int], float], frozenset[int]]] = {
    "decaying": (decaying, frozenset()),
    "warm-up": (warming, frozenset()),
    "standing": (standing, frozenset()),
    "staged": (staged, frozenset({1500, 3000})),
}


def numbers(course: Callable[[int], float], noise: Noise, seed: int, steps: int) -> Iterator[Numbers]:
    """Gradient norms have heavy tails of their own: one in three hundred is twenty times the usual."""
    chance = random.Random(seed)
    for step in range(1, steps + 1):
        norm = math.exp(chance.gauss(-1.0, 0.3)) * (20.0 if chance.random() < 1 / 300 else 1.0)
        yield Numbers(course(step) + noise(chance), norm)


def false_actions(steps: int, seeds: int) -> tuple[int, int, int]:
    """Actions, drifts told, and steps looked at."""
    actions = told = looked = 0
    for course, changes in COURSES.values():
        for noise in NOISES.values():
            for seed in range(seeds):
                state, rule = GuardState(), Rule(changes)
                for step, one in enumerate(numbers(course, noise, seed, steps), 1):
                    seen = rule.look(state, step, one.loss, one.norm)
                    actions += seen.verdict is not Verdict.TAKE
                    told += bool(seen.verdict is Verdict.TAKE and seen.words)
                    state, looked = seen.state, looked + 1
    return actions, told, looked


FAULTS: dict[str, tuple[Callable[[int], float], int]] = {
    "+3 nats decaying over 200 steps": (lambda since: 3.0 * math.exp(-since / 200.0), 5),
    "ramp of +2 nats in 100 steps": (lambda since: 2.0 * min(1.0, since / 100.0), 30),
    "ramp of +1 nat in 500 steps": (lambda since: min(1.0, since / 500.0), 200),
}


def caught_after(fault: Callable[[int], float], noise: Noise, seed: int) -> int | None:
    """Steps from the fault until an action or a warning, with gradient norms as ever."""
    state, rule = GuardState(), Rule()
    for step, one in enumerate(numbers(decaying, noise, seed, FAULT_AT + SETTLE), 1):
        extra = fault(step - FAULT_AT) if step >= FAULT_AT else 0.0
        seen = rule.look(state, step, one.loss + extra, one.norm)
        state = seen.state
        if step >= FAULT_AT and (seen.verdict is Verdict.GO_BACK or seen.words):
            return step - FAULT_AT + 1
    return None


def one_nan() -> int:
    """Steps that are left out for one that is no number."""
    state, rule, left = GuardState(), Rule(), 0
    for step, one in enumerate(numbers(decaying, even, 1, FAULT_AT + SETTLE), 1):
        seen = rule.look(state, step, math.nan if step == FAULT_AT else one.loss, one.norm)
        state, left = seen.state, left + (seen.verdict is not Verdict.TAKE)
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    steps, seeds = (QUICK_STEPS, 1) if options.quick else (STEPS, SEEDS)
    actions, told, looked = false_actions(steps, seeds)
    for figure in (
        {"name": "loss guard: false actions on healthy steps", "value": actions, "unit": f"of {looked}", "goal": "0"},
        {"name": "loss guard: drifts told on healthy steps", "value": told, "unit": f"of {looked}", "goal": None},
    ):
        _say({**figure, "holds": actions == 0 if figure["goal"] else None}, options.quick)
    for name, (fault, limit) in FAULTS.items():
        tries = [caught_after(fault, noise, seed) for noise in (even, heavy, bursts) for seed in range(seeds)]
        caught = [tried for tried in tries if tried is not None]
        found = len(caught) == len(tries)
        figure = {"name": f"loss guard, {name}: caught after", "value": max(caught) if found else -1, "unit": "steps"}
        spread, holds = [min(caught), max(caught)], found and max(caught) <= limit
        _say({**figure, "spread": spread, "goal": f"<= {limit}", "holds": holds}, options.quick)
    left = one_nan()
    figure = {"name": "loss guard, one step that is no number: steps left out", "value": left, "unit": "steps"}
    _say({**figure, "goal": "1", "holds": left == 1}, options.quick)


def _say(figure: dict[str, object], quick: bool) -> None:
    print(json.dumps({"spread": None, **figure, "quick": quick}), flush=True)


if __name__ == "__main__":
    main()
