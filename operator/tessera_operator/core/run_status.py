"""The status of a run, from what was seen and decided. Pure."""

from __future__ import annotations

from typing import Any

from tessera_api.resource import Condition
from tessera_api.times import span, stamp
from tessera_api.training_run_status import AvoidedNode, PodAttempts, RunPhase, TrainingRunStatus
from tessera_operator import names
from tessera_operator.core.active_time import active_time
from tessera_operator.core.avoidance import Hosts
from tessera_operator.core.run_decision import Over, Plan
from tessera_operator.core.view import View

_FROM_COORDINATOR = ("step", "loss", "tokens_per_second", "mfu", "nodes", "active_nodes", "restarts")
_ALSO = ("goodput", "ettr", "node_seconds", "cost", "lost_work_cost", "eta", "incidents", "stragglers", "drills")


def run_status(view: View, plan: Plan) -> TrainingRunStatus:
    """The whole status; conditions keep their time while they stay as they are."""
    shown: dict[str, Any] = {}
    left = next((pod.final for pod in view.pods if pod.final is not None), None) if plan.over is not None else None
    said = left or (view.answer.status if view.answer is not None else view.status)
    for name in (*_FROM_COORDINATOR, *_ALSO):
        value = getattr(said, name)
        shown[name] = value if value is not None else getattr(view.status, name)
    over = plan.over
    if over is not None:
        shown["eta"] = None
    if over is not None and over.succeeded and view.start is not None:
        # Complete means that the last step stands in the log; the last answer may have been one before it.
        shown["step"] = f"{view.start.total_steps}/{view.start.total_steps}"
    entries = plan.attempts or {entry.slot: entry for entry in view.status.attempts or ()}
    moved = tuple(entry for entry in entries.values() if entry != PodAttempts(slot=entry.slot, attempt=0))
    phase = _phase(view, plan, over)
    active = active_time(view, over is not None or plan.suspended)
    return TrainingRunStatus(
        **shown,
        conditions=_timed(view, _conditions(view, plan, phase)),
        observed_generation=view.generation,
        phase=phase,
        age=span(view.now - view.created),
        attempts=moved or None,
        start=plan.start or view.status.start,
        active_seconds=active.seconds or view.status.active_seconds,
        active_at=active.at,
        key=plan.key or view.status.key,
        avoided=_avoided(plan.hosts) if plan.hosts is not None else view.status.avoided,
        losses=(tuple(plan.hosts.losses.values()) or None) if plan.hosts is not None else view.status.losses,
    )


def _avoided(hosts: Hosts) -> tuple[AvoidedNode, ...] | None:
    return tuple(AvoidedNode(node=node, since=since) for node, since in hosts.avoided.items()) or None


def _phase(view: View, plan: Plan, over: Over | None) -> RunPhase:
    if over is not None:
        return RunPhase.SUCCEEDED if over.succeeded else RunPhase.FAILED
    if plan.suspended:
        return RunPhase.SUSPENDED
    if plan.blocked is not None or view.start is None:
        return RunPhase.PENDING
    if view.answer is not None and view.answer.status.phase is not None:
        return view.answer.status.phase
    before = view.status.phase
    return RunPhase.STARTING if before in (None, RunPhase.PENDING, RunPhase.SUSPENDED) else before


def _conditions(view: View, plan: Plan, phase: RunPhase) -> list[tuple[str, str, str, str]]:
    over, blocked = plan.over, plan.blocked
    if over is not None:
        succeeded = ("Succeeded", "True" if over.succeeded else "False", over.reason, over.message)
    else:
        succeeded = ("Succeeded", "Unknown", phase.value, "the run has not ended")
    if blocked is not None:
        prepared = ("Prepared", "False", blocked.reason, blocked.message)
    else:
        prepared = ("Prepared", "True", "Ready", "datasets, accelerator and storage are there")
    running = phase is RunPhase.RUNNING
    message = blocked.message if blocked else _running_words(view, phase)
    return [
        succeeded,
        ("Running", "True" if running else "False", phase.value, message),
        prepared,
        _placed(view, plan),
        _heard(view, plan),
        _suspended(view, plan),
    ]


def _suspended(view: View, plan: Plan) -> tuple[str, str, str, str]:
    if plan.suspended:
        return (
            "Suspended",
            "True",
            "Suspended",
            "all nodes are given back; spec.suspend false goes on from the last commit",
        )
    if view.run.spec.suspend and plan.over is None:
        return ("Suspended", "False", "Stopping", "the run stops at its next step, with a commit")
    return ("Suspended", "False", "NotAsked", "spec.suspend is false")


def _running_words(view: View, phase: RunPhase) -> str:
    said = view.answer.status if view.answer is not None else None
    found = next((c for c in (said.conditions or ()) if c.type == "Running"), None) if said else None
    return found.message if found else f"the run is {phase.value.lower()}"


def _placed(view: View, plan: Plan) -> tuple[str, str, str, str]:
    if plan.over is not None or view.start is None:
        return ("Placed", "False", "NotNeeded", "no pod is needed")
    waiting = [pod for pod in view.pods if pod.phase == "Pending" and pod.node is None and not pod.deleting]
    if waiting:
        words = f"{len(waiting)} of {len(plan.attempts)} pods wait for a node: {waiting[0].message or 'no word yet'}"
        return ("Placed", "False", "Unschedulable", words[:2000])
    return ("Placed", "True", "Placed", f"{len(plan.attempts)} pods have a node")


def _heard(view: View, plan: Plan) -> tuple[str, str, str, str]:
    if plan.over is not None or view.start is None:
        return ("Reporting", "False", "NotNeeded", "there is no coordinator to hear from")
    if view.answer is not None and view.answer.fresh:
        return ("Reporting", "True", "Heard", "the coordinator answers")
    ended = next((pod for pod in view.pods if pod.role == names.COORDINATOR and pod.exit_code), None)
    if ended is not None:
        return (
            "Reporting",
            "False",
            "Failing",
            f"the coordinator ended with {ended.exit_code}: {ended.message}"[-2000:],
        )
    there = any(pod.role == names.COORDINATOR and pod.phase == "Running" for pod in view.pods)
    words = "the coordinator does not answer; the run goes on without the operator" if there else "it is starting"
    return ("Reporting", "False", "Silent" if there else "Starting", words)


def _timed(view: View, found: list[tuple[str, str, str, str]]) -> tuple[Condition, ...]:
    before = {condition.type: condition for condition in view.status.conditions or ()}
    now = stamp(view.now)
    timed = []
    for kind, status, reason, message in found:
        old = before.get(kind)
        since = old.last_transition_time if old is not None and old.status == status else now
        timed.append(
            Condition.model_validate(
                {
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": message[:4000],
                    "lastTransitionTime": since,
                    "observedGeneration": view.generation,
                }
            )
        )
    return tuple(timed)


NUMBERS = frozenset(
    (
        *("active_seconds", "active_at", "step", "loss", "tokens_per_second", "mfu", "eta", "age"),
        *("goodput", "ettr", "node_seconds", "cost", "lost_work_cost"),
    )
)


def worth_writing(before: TrainingRunStatus, after: TrainingRunStatus) -> tuple[bool, bool]:
    """Whether anything differs, and whether more does than the numbers that change with every step."""
    if before == after:
        return False, False
    return True, _standing(before) != _standing(after)


def _standing(status: TrainingRunStatus) -> TrainingRunStatus:
    """Without what changes while nothing happens: the numbers, and what a run that trains said last (each commit)."""
    conditions = tuple(
        c.model_copy(update={"message": ""}) if c.reason == RunPhase.RUNNING.value else c
        for c in status.conditions or ()
    )
    return status.model_copy(update={**{name: None for name in NUMBERS}, "conditions": conditions})
