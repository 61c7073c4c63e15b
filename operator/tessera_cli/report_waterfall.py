"""The report's waterfall: where the time of all nodes went, a bar a cause, each from where the last one ends. Pure.

Everything in the bars stands in the table that they are part of.
"""

from __future__ import annotations

from html import escape

from tessera_api.training_run_status import SpentSeconds, TrainingRunStatus
from tessera_cli import shown_numbers

ORDER = (
    "compute",
    "uncommitted",
    "data_wait",
    "checkpoint_stall",
    "evaluation",
    "start_up",
    "recovery",
    "lost_work",
    "spare",
    "idle",
)
"""What counts first; a cause that is not known here comes last."""


def waterfall(status: TrainingRunStatus) -> str:
    """The table, and what all of it cost where that is known."""
    spent = sorted(status.node_seconds or (), key=_place)
    total = sum(entry.seconds for entry in spent)
    if not total:
        return "<p>Not counted yet.</p>"
    rows, begin = list[str](), 0.0
    for entry in spent:
        share = 100.0 * entry.seconds / total
        rows.append(_row(entry, begin, share))
        begin += share
    titles = "".join(f'<th scope="col">{title}</th>' for title in ("Cause", "Node time", "Share", "Of all node time"))
    body = "\n".join(rows)
    frame = '<div class="wide" tabindex="0" role="region" aria-label="Where the time of the nodes went">'
    table = f'<table class="waterfall"><thead><tr>{titles}</tr></thead><tbody>\n{body}\n</tbody></table>'
    return f"{frame}{table}</div>{_cost(status)}"


def _place(entry: SpentSeconds) -> int:
    return ORDER.index(entry.cause) if entry.cause in ORDER else len(ORDER)


def _row(entry: SpentSeconds, begin: float, share: float) -> str:
    kind = "good" if entry.cause in ("compute", "uncommitted") else "bad" if entry.cause == "lost_work" else "other"
    bar = f'<div class="bar {kind}" style="margin-left:{begin:.2f}%;width:{share:.2f}%"></div>'
    cells = (escape(entry.cause.replace("_", " ")), shown_numbers.span(entry.seconds), f"{share:.1f} %", bar)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cost(status: TrainingRunStatus) -> str:
    if status.cost is None:
        return ""
    return f"<p>Cost so far: {escape(status.cost)}; of work that was lost: {escape(status.lost_work_cost or '0')}.</p>"
