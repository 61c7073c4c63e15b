"""Figures: what a benchmark prints, one JSON object a line, and how a table of them looks.

Owns the form of the lines and of the rows in RESULTS.md. A figure has a name that no other has: recording it again
replaces its row.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = "| What | Value | Spread | Goal | Holds | Date | Command | Machine |\n|---|---|---|---|---|---|---|---|\n"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@dataclass(frozen=True)
class Origin:
    """Where a figure comes from: the day, the command that printed it, the machine with its load just before."""

    date: str
    command: str
    machine: str


@dataclass(frozen=True)
class Figure:
    """One measured value against its goal; `holds` is None where nothing was promised."""

    name: str
    value: float
    spread: tuple[float, ...]
    unit: str
    goal: str
    holds: bool | None
    quick: bool

    @classmethod
    def parse(cls, line: str) -> Figure | None:
        """The figure of a line, or None if the line is something else that a script printed."""
        try:
            said = json.loads(line)
        except json.JSONDecodeError:
            return None
        if not isinstance(said, dict) or "name" not in said:
            return None
        return cls(
            name=str(said["name"]),
            value=float(said["value"]),
            spread=_spread(said.get("spread")),
            unit=str(said["unit"]),
            goal=_goal(said.get("goal"), str(said["unit"])),
            holds=said.get("holds"),
            quick=bool(said.get("quick", False)),
        )

    def row(self, origin: Origin) -> str:
        """The figure as a row of the table."""
        spread = " to ".join(_text(value) for value in self.spread)
        holds = {True: "yes", False: "**no**", None: ""}[self.holds]
        said = f"| {self.name} | {_text(self.value)} {self.unit} | {spread} | {self.goal} | {holds} |"
        return f"{said} {origin.date} | `{origin.command}` | {origin.machine} |\n"


def line(name: str, values: Sequence[float], unit: str, goal: float | None, quick: bool) -> str:
    """One line of a benchmark: the median, and whether every try reached the goal (a rate) or kept within it (a
    time); with no goal for comparison."""
    holds = None if goal is None else min(values) >= goal if unit.endswith("/s") else max(values) <= goal
    said = {
        "name": name,
        "value": round(statistics.median(values), 3),
        "spread": [round(min(values), 3), round(max(values), 3)],
        "unit": unit,
        "goal": goal,
        "holds": holds,
        "quick": quick,
    }
    return json.dumps(said)


def recorded(document: str, figures: list[Figure], origin: Origin) -> str:
    """The document with the figures in its table: a row of the same name is replaced, a new one comes last."""
    head, rest = document.split(BEGIN)
    table, tail = rest.split(END)
    rows = {_name(line): line for line in table.removeprefix(COLUMNS).splitlines(keepends=True)}
    rows |= {figure.name: figure.row(origin) for figure in figures}
    return head + BEGIN + COLUMNS + "".join(rows.values()) + END + tail


def _name(row: str) -> str:
    return row.split("|")[1].strip()


def _spread(said: Any) -> tuple[float, ...]:
    if said is None:
        return ()
    return tuple(float(value) for value in said) if isinstance(said, list) else (float(said),)


def _goal(said: Any, unit: str) -> str:
    match said:
        case None:
            return ""
        case str():
            return said
        case _:
            return f"{_text(said)} {unit}"


def _text(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float | int) else str(value)
