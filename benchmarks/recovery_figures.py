"""How the recovery benchmarks say what they measured: pairs of median and maximum, or a promise that each try kept."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Goal:
    """Seconds that the median and the maximum must not pass; one number holds for every try."""

    middle: float
    most: float

    def __str__(self) -> str:
        return f"<= {self.most:g} s" if self.middle == self.most else f"<= {self.middle:g} s / {self.most:g} s"


def each(seconds: float) -> Goal:
    """A figure that every try must reach."""
    return Goal(seconds, seconds)


def say_seconds(name: str, values: Sequence[float], goal: Goal | None, quick: bool) -> None:
    """One figure: the median of the tries, with the least and the largest as its spread."""
    middle, most = median(values), max(values)
    holds = None if goal is None else middle <= goal.middle and most <= goal.most
    figure = {"name": name, "value": round(middle, 3), "spread": [round(min(values), 3), round(most, 3)], "unit": "s"}
    _say({**figure, "goal": str(goal) if goal else None, "holds": holds, "tries": [round(v, 3) for v in values]}, quick)


def say_kept(name: str, tries: int, kept: int, promise: str, quick: bool) -> None:
    """How many of the tries kept the promise."""
    figure = {"name": name, "value": kept, "spread": None, "unit": f"of {tries} tries"}
    _say({**figure, "goal": promise, "holds": kept == tries}, quick)


def _say(figure: dict[str, object], quick: bool) -> None:
    load = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps({**figure, "quick": quick, "load": load}), flush=True)
