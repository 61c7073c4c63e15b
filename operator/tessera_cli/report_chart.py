"""The report's chart: loss, throughput and generations with incidents, on one time axis, as SVG text. Pure.

What must stay true: every panel uses the same axis; a step that was lost is drawn faintly; a loss that is no number is
marked at the panel's top instead of bending the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from tessera_api.journal import StepLine
from tessera_cli import shown_numbers
from tessera_cli.run_history import Generation, RunHistory
from tessera_cli.svg import element, line, words
from tessera_cli.time_axis import TimeAxis

WIDTH, LEFT, RIGHT = 1080.0, 64.0, 1064.0
MOST_POINTS = 1500
"""Points of a line; more are thinned out, the extremes of each stretch kept."""


@dataclass(frozen=True)
class Panel:
    """One of the charts above each other."""

    title: str
    css: str
    top: float
    height: float
    value: Callable[[StepLine], float | None]
    shown: Callable[[float], str]
    from_zero: bool = False
    """Whether the scale begins at zero, so that heights can be compared."""

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height


LOSS = Panel("Loss", "loss", 40, 220, lambda step: step.loss, lambda value: f"{value:.3g}")
RATE = Panel("Tokens per second", "rate", 300, 140, lambda step: step.tokens_per_second, shown_numbers.amount, True)
BANDS_TOP, BANDS_HEIGHT = 480.0, 60.0
BANDS_BOTTOM = BANDS_TOP + BANDS_HEIGHT
AXIS_Y = BANDS_BOTTOM + 18
LABEL_WIDTH = 44.0
"""A generation that is drawn narrower has no room for its label."""
HEIGHT = AXIS_Y + 22


def axis_of(history: RunHistory) -> TimeAxis:
    """From the first to the last thing that is known."""
    moments = [step.time for step in (*history.steps, *history.lost)]
    moments += [event.time for event in history.events]
    return TimeAxis(moments, LEFT, RIGHT)


def chart(history: RunHistory, axis: TimeAxis) -> str:
    """The whole drawing."""
    return element(
        "svg",
        words("title", "Loss, throughput, generations and incidents over time", id="chart-title"),
        words("desc", _words(history), id="chart-words"),
        *_time_grid(axis),
        *_recoveries(history, axis),
        *_panel(LOSS, history, axis),
        *_panel(RATE, history, axis),
        *_bands(history.generations, axis),
        *_commits(history, axis),
        *_incidents(history, axis),
        line((0, LOSS.top), (0, BANDS_BOTTOM), id="cursor", class_="cursor", visibility="hidden"),
        id="chart",
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        role="img",
        tabindex="0",
        aria_labelledby="chart-title chart-words",
    )


def _words(history: RunHistory) -> str:
    return (
        f"{len(history.steps)} steps in {len(history.generations)} generations with {len(history.incidents)} incidents;"
        " the tables below give the same in numbers"
    )


def _time_grid(axis: TimeAxis) -> Iterator[str]:
    for x, elapsed in axis.ticks():
        yield line((x, LOSS.top), (x, BANDS_BOTTOM), class_="grid")
        yield words("text", shown_numbers.span(elapsed), x=x, y=AXIS_Y, text_anchor="middle")
    for cut in axis.cuts:
        x = (axis.x(cut.first) + axis.x(cut.last)) / 2
        pause = words("title", f"nothing for {shown_numbers.span(cut.last - cut.first)}")
        yield line((x, LOSS.top - 12), (x, AXIS_Y - 12), pause, class_="cut")


# ---- lines ---------------------------------------------------------------------------------------------------------


def _panel(panel: Panel, history: RunHistory, axis: TimeAxis) -> Iterator[str]:
    yield words("text", panel.title, class_="title", x=LEFT, y=panel.top - 10)
    values = [value for step in (*history.steps, *history.lost) if (value := _finite(panel.value(step))) is not None]
    low, high = _range([0.0, *values] if panel.from_zero else values)
    y = _scale(panel, low, high)
    for tick in _ticks(low, high):
        yield line((LEFT, y(tick)), (RIGHT, y(tick)), class_="grid")
        yield words("text", panel.shown(tick), x=LEFT - 8, y=y(tick) + 4, text_anchor="end")
    for steps, css in ((history.lost, f"{panel.css} lost"), (history.steps, panel.css)):
        for piece in pieces(steps):
            points = thinned([(axis.x(step.time), _finite(panel.value(step))) for step in piece])
            yield from _curve(points, y, css)
    yield from _nonfinite(panel, history, axis)


def _nonfinite(panel: Panel, history: RunHistory, axis: TimeAxis) -> Iterator[str]:
    for step in (*history.steps, *history.lost):
        value = panel.value(step)
        if value is not None and not math.isfinite(value):
            mark = words("title", f"step {step.step}: {panel.title.lower()} {value}")
            yield element(
                "path", mark, class_="nonfinite", d=f"M{axis.x(step.time):.1f} {panel.top + 10:.1f}l-5 -10h10z"
            )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def pieces(steps: Iterable[StepLine]) -> Iterator[list[StepLine]]:
    """Stretches of one generation: what lies between two of them is no training."""
    ordered = sorted(steps, key=lambda step: (step.generation, step.step))
    for _, piece in groupby(ordered, lambda step: step.generation):
        yield list(piece)


def thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """At most about `MOST_POINTS` of the points that have a value: of each stretch the lowest and the highest."""
    known = [(x, value) for x, value in points if value is not None]
    if len(known) <= MOST_POINTS:
        return known
    size = math.ceil(2 * len(known) / MOST_POINTS)
    kept = []
    for start in range(0, len(known), size):
        stretch = known[start : start + size]
        extremes = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(extremes)
    return kept


def _curve(points: Sequence[tuple[float, float]], y: Callable[[float], float], css: str) -> Iterator[str]:
    """A line through the points; a single one is a dot, none is nothing."""
    if len(points) == 1:
        [(x, value)] = points
        yield element("circle", class_=f"dot {css}", cx=x, cy=y(value), r=2.0)
    elif points:
        yield element(
            "polyline", class_=f"line {css}", points=" ".join(f"{x:.1f},{y(value):.1f}" for x, value in points)
        )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return (low - margin if low else 0.0), high + margin


def _scale(panel: Panel, low: float, high: float) -> Callable[[float], float]:
    return lambda value: panel.bottom - (value - low) / (high - low) * panel.height


def _ticks(low: float, high: float) -> list[float]:
    """Some four round values."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]


# ---- generations, commits, incidents --------------------------------------------------------------------------------


def _bands(generations: Sequence[Generation], axis: TimeAxis) -> Iterator[str]:
    yield words("text", "Generations (height: world size W)", class_="title", x=LEFT, y=BANDS_TOP - 10)
    most = max((one.world_size or 0 for one in generations), default=1) or 1
    for place, one in enumerate(generations):
        x, end = axis.x(one.opened), axis.x(one.over)
        width, height = max(1.0, end - x), BANDS_HEIGHT * (one.world_size or 0) / most or 4.0
        text = f"generation {one.number}: {one.nodes}; {_size(one)}; {shown_numbers.span(one.over - one.opened)}"
        css = "band other" if place % 2 else "band"
        box = {"x": x, "y": BANDS_BOTTOM - height, "width": width, "height": height}
        yield element("rect", words("title", text), class_=css, **box)
        if width > LABEL_WIDTH and one.world_size:
            yield words("text", f"{one.number}: W {one.world_size}", class_="band-text", x=x + 5, y=BANDS_BOTTOM - 8)


def _size(one: Generation) -> str:
    return f"world size {one.world_size}" if one.world_size else "no step"


def _commits(history: RunHistory, axis: TimeAxis) -> Iterator[str]:
    for commit in history.commits:
        title = words("title", f"checkpoint of step {commit.step}")
        yield element("path", title, class_="commit", d=f"M{axis.x(commit.time):.1f} {LOSS.bottom:.0f}l4 7h-8z")


def _recoveries(history: RunHistory, axis: TimeAxis) -> Iterator[str]:
    for incident in history.incidents:
        x = axis.x(incident.detected)
        end = axis.x(incident.next_step if incident.next_step is not None else axis.last)
        width = max(0.0, end - x)
        yield element("rect", class_="recovery", x=x, y=LOSS.top, width=width, height=BANDS_BOTTOM - LOSS.top)


def _incidents(history: RunHistory, axis: TimeAxis) -> Iterator[str]:
    for incident in history.incidents:
        x = axis.x(incident.detected)
        yield element(
            "a",
            words("title", f"incident {incident.number}: {incident.cause}"),
            line((x, LOSS.top - 6), (x, BANDS_BOTTOM), class_="incident"),
            words("text", str(incident.number), class_="incident-number", x=x, y=LOSS.top - 10, text_anchor="middle"),
            href=f"#incident-{incident.number}",
        )
