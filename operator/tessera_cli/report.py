"""The report: one self-contained HTML page about a run, finished or not.

Owns the page around the chart. What must stay true: it asks no network, it shows nothing that the run directory does
not hold, and everything in the drawing stands in a table too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path

from tessera_api.incident import Incident
from tessera_api.journal import EventName, StepLine
from tessera_cli import shown_numbers
from tessera_cli.report_chart import MOST_POINTS, axis_of, chart
from tessera_cli.report_waterfall import waterfall
from tessera_cli.run_history import CommittedStep, RunHistory
from tessera_cli.time_axis import TimeAxis
from tessera_store import open_store


def write_report(path: Path, history: RunHistory) -> None:
    """Replace the page at `path`, whole."""
    open_store(path.parent.as_uri()).put(path.name, page(history).encode())


def page(history: RunHistory) -> str:
    """The page's text."""
    axis = axis_of(history)
    name = escape(history.resolved.name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: report of a Tessera run</title>
<style>
{_asset("report.css")}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="lead">{escape(_lead(history, axis))}</p>
</header>
<main>
<dl class="numbers">
{_rows(f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>" for term, value in _numbers(history))}
</dl>
<p class="lead">{escape(_utilisation(history))}</p>
<h2>Over time</h2>
<figure>
{chart(history, axis)}
<figcaption>{escape(_caption(axis))}</figcaption>
</figure>
<output id="reading" aria-live="polite"></output>
<h2>Where the time of the nodes went</h2>
{waterfall(history.status)}
<h2>Incidents</h2>
{_incident_table(history.incidents)}
<h2>Checkpoints</h2>
{_commit_table(history.commits, axis)}
</main>
<script type="application/json" id="points">{_points(history, axis)}</script>
<script>
{_asset("report.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("tessera_cli").joinpath("report_assets", name).read_text(encoding="utf-8")


def _rows(rows: Iterable[str]) -> str:
    return "\n".join(rows)


def _lead(history: RunHistory, axis: TimeAxis) -> str:
    spec, phase = history.resolved.run.spec, history.status.phase
    begun = datetime.fromtimestamp(history.resolved.created, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    mix = ", ".join(entry.dataset for entry in spec.data.mix)
    state = phase.value if phase is not None else "not begun"
    parts = [state, f"{spec.method.value} on {mix}", f"begun {begun}", f"start {history.resolved.start}"]
    return "; ".join([*parts, f"{shown_numbers.span(axis.last - axis.first)} shown"])


def _numbers(history: RunHistory) -> Iterator[tuple[str, str]]:
    """The summary: term and value."""
    last = history.steps[-1] if history.steps else None
    yield "Steps", f"{last.step if last else 0} / {history.resolved.total_steps}"
    yield "Loss", shown_numbers.loss(last.loss) if last else "-"
    yield "Tokens", shown_numbers.amount(last.tokens) if last else "-"
    rate = history.tokens_per_second
    yield "Tokens/s (median)", shown_numbers.amount(rate) if rate is not None else "-"
    yield "Goodput", history.status.goodput or "-"
    yield "Restarts", str(history.restarts)
    yield "Incidents", str(len(history.incidents))
    yield "Steps lost", str(history.steps_lost)
    yield "Checkpoints", str(len(history.commits))
    yield "MFU (last step)", f"{last.mfu:.3f}" if last and last.mfu is not None else "-"
    by_6nd = last.numbers.get("mfu_6nd") if last else None
    yield "MFU by 6ND", f"{by_6nd:.3f}" if by_6nd is not None else "-"


def _utilisation(history: RunHistory) -> str:
    """What MFU is a share of, as a trainer noted it last."""
    notes = [event.message for event in history.events if event.name is EventName.NOTE]
    said = [note.removeprefix("Peak: ") for note in notes if note.startswith("Peak: ")]
    counted = "MFU counts matrix products under causal and document masks; 6ND six per parameter and token"
    return f"{counted}. Peak: {said[-1] if said else 'not known yet'}."


def _caption(axis: TimeAxis) -> str:
    cut = f" {len(axis.cuts)} pauses are cut short (dotted lines)." if axis.cuts else ""
    return (
        "Time since the run began. Red: an incident, shaded until the next step. Triangles below the loss: checkpoints."
        f" Dashed: steps that were lost and computed again.{cut} Point at the chart, or use the arrow keys,"
        " to read values."
    )


# ---- tables --------------------------------------------------------------------------------------------------------


def _table(titles: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], caption: str) -> str:
    """Rows are (id, cells); cells are text."""
    body = _rows(
        f"<tr{_identity(identity)}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for identity, cells in rows
    )
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    frame = f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
    return f"{frame}<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _identity(identity: str) -> str:
    return f' id="{identity}"' if identity else ""


def _incident_table(incidents: Sequence[Incident]) -> str:
    if not incidents:
        return "<p>None.</p>"
    times = ("At", "Detected", "Next step", "Beyond the best")
    titles = ("#", "Class", "Cause", "Where", "Done", *times, "Generations", "Steps lost")
    return _table(titles, ((f"incident-{one.number}", _incident_cells(one)) for one in incidents), "Incidents")


def _incident_cells(one: Incident) -> tuple[str, ...]:
    return (
        str(one.number),
        one.failure.value if one.failure is not None else "-",
        one.words or one.cause,
        _where(one),
        one.action.value if one.action is not None else "-",
        datetime.fromtimestamp(one.detected, UTC).strftime("%H:%M:%S"),
        _after(one.signal_time, one.detected, "after the signal"),
        _after(one.detected, one.next_step, "after that"),
        _after(one.detected, one.passed_highest, "after that"),
        f"{one.generation_before}, {'none yet' if one.generation_after is None else one.generation_after}",
        "-" if one.steps_lost is None else str(one.steps_lost),
    )


def _where(one: Incident) -> str:
    node = one.node or ", ".join(one.nodes) or "-"
    return node if one.rank is None else f"{node}, rank {one.rank}"


def _after(first: float | None, then: float | None, words: str) -> str:
    return "-" if first is None or then is None else f"{shown_numbers.seconds(then - first)} {words}"


def _commit_table(commits: Sequence[CommittedStep], axis: TimeAxis) -> str:
    if not commits:
        return "<p>None.</p>"
    rows = (
        (
            "",
            (
                str(one.step),
                shown_numbers.span(one.time - axis.first),
                "-" if one.seconds is None else shown_numbers.seconds(one.seconds),
                "-" if one.stall_seconds is None else shown_numbers.seconds(one.stall_seconds),
            ),
        )
        for one in commits
    )
    return _table(("Step", "Time", "Until stored", "Training stood still"), rows, "Checkpoints")


# ---- readings ------------------------------------------------------------------------------------------------------


def _points(history: RunHistory, axis: TimeAxis) -> str:
    """What the page's script reads: [position, words] of evenly chosen steps, in order of position."""
    stride = max(1, len(history.steps) // MOST_POINTS)
    chosen = sorted((round(axis.x(line.time), 1), _reading(line)) for line in history.steps[::stride])
    return json.dumps(chosen, separators=(",", ":")).replace("<", "\\u003c")


def _reading(line: StepLine) -> str:
    rate = "" if line.tokens_per_second is None else f", {shown_numbers.amount(line.tokens_per_second)} tokens/s"
    place = f"generation {line.generation}, world size {line.world_size}"
    return f"step {line.step}: loss {shown_numbers.loss(line.loss)}{rate}, {place}"
