"""How long a run has had nodes, over all its starts, and whether that is as long as it may. Pure.

What must stay true: time in which it is suspended, waits for nodes or has ended does not count; an operator that was
away counts what lay between, if the run had nodes before and after.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera_api.times import seconds_of, stamp
from tessera_operator import names
from tessera_operator.core.view import View


@dataclass(frozen=True)
class ActiveTime:
    """As it stands in the status."""

    seconds: int
    at: str | None
    """Up to when; None while it is not active."""


def active_time(view: View, over: bool) -> ActiveTime:
    """As of now; a run that is `over` is active no more."""
    before, at = view.status.active_seconds or 0, view.status.active_at
    has_nodes = any(pod.role == names.WORKER and pod.phase == "Running" and not pod.deleting for pod in view.pods)
    active = has_nodes and not over
    now = stamp(view.now)
    passed = max(0.0, seconds_of(now) - seconds_of(at)) if at is not None else 0.0
    return ActiveTime(before + round(passed), now if active else None)


def deadline_passed(view: View) -> str | None:
    """Why the run must end now, in words; None while it need not."""
    limit = view.run.spec.active_deadline_seconds
    seconds = active_time(view, over=False).seconds
    if limit is None or seconds < limit:
        return None
    return f"it has been active for {seconds} s, and spec.activeDeadlineSeconds is {limit}"
