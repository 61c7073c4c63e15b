"""The run's status, as `status.json` and the resource show it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tessera_api.incident import Incident
from tessera_api.journal import StepLine
from tessera_api.run_directory import evidence_name
from tessera_api.times import span, stamp
from tessera_api.training_run_status import RunPhase, ShownDrill, ShownStraggler, TrainingRunStatus
from tessera_coordinator.core.ledger import Cause, Ledger, cost


@dataclass(frozen=True)
class Seen:
    """What the status is made of."""

    phase: RunPhase
    message: str
    total_steps: int
    wanted: int
    active: int
    generation: int
    first_generation: int
    ledger: Ledger
    node_price: float | None
    """Of a node an hour; None: not given."""
    newest: StepLine | None
    seconds_per_step: float | None
    created: float
    changed: float
    """Unix seconds since when `phase` has been so."""
    now: float
    incidents: tuple[Incident, ...] = ()
    stragglers: tuple[ShownStraggler, ...] = ()
    drills: tuple[ShownDrill, ...] = ()


_REASONS = {
    RunPhase.SUCCEEDED: ("True", "Complete"),
    RunPhase.FAILED: ("False", "Failed"),
}


def status(seen: Seen) -> TrainingRunStatus:
    """The document; every number is a text, since the API server takes no floats."""
    succeeded, reason = _REASONS.get(seen.phase, ("Unknown", seen.phase.value))
    running = seen.phase is RunPhase.RUNNING
    newest = seen.newest
    done = newest.step if newest else 0
    shown = {
        "conditions": [
            _condition("Succeeded", succeeded, reason, seen),
            _condition("Running", "True" if running else "False", seen.phase.value, seen),
        ],
        "phase": seen.phase,
        "step": f"{done}/{seen.total_steps}",
        "nodes": f"{seen.active}/{seen.wanted}",
        "activeNodes": seen.active,
        "restarts": max(0, seen.generation - seen.first_generation),
        "age": span(seen.now - seen.created),
    }
    if newest is not None:
        shown["loss"] = decimal(newest.loss, 4)
        shown["tokensPerSecond"] = thousands(newest.tokens_per_second) if newest.tokens_per_second else None
        shown["mfu"] = decimal(newest.mfu, 3) if newest.mfu is not None else None
    shown |= _ledger(seen.ledger, seen.node_price)
    if seen.seconds_per_step is not None and running:
        shown["eta"] = span((seen.total_steps - done) * seen.seconds_per_step)
    if seen.incidents:
        shown["incidents"] = [_incident(incident) for incident in seen.incidents]
    shown["stragglers"] = seen.stragglers or None
    shown["drills"] = seen.drills or None
    return TrainingRunStatus.model_validate({key: value for key, value in shown.items() if value is not None})


def _ledger(ledger: Ledger, node_price: float | None) -> dict[str, object]:
    """Where the node-seconds went, and what they cost."""
    goodput, ettr = ledger.goodput(), ledger.ettr()
    if goodput is None or ettr is None:
        return {}
    settled = {cause: round(seconds) for cause, seconds in ledger.seconds().items()}
    spent = {**settled, "uncommitted": round(ledger.uncommitted)}
    shown: dict[str, object] = {
        "goodput": f"{goodput:.3f}",
        "ettr": f"{ettr:.3f}",
        "nodeSeconds": [{"cause": cause, "seconds": seconds} for cause, seconds in spent.items() if seconds],
    }
    if node_price is not None:
        lost = ledger.seconds()[Cause.LOST_WORK.value]
        shown["cost"] = f"{cost(ledger.total, node_price):.2f}"
        shown["lostWorkCost"] = f"{cost(lost, node_price):.2f}"
    return shown


def _incident(incident: Incident) -> dict[str, object]:
    shown: dict[str, object] = {
        "number": incident.number,
        "cause": (incident.words or incident.cause)[:300],
        "nodes": list(dict.fromkeys(incident.nodes))[:8],
        "detected": stamp(incident.detected),
    }
    if incident.failure is not None:
        shown["failure"], shown["action"] = incident.failure, incident.action
        shown["evidence"] = evidence_name(incident.number)
    if incident.node is not None:
        shown["node"] = incident.node
    if incident.rank is not None:
        shown["rank"] = incident.rank
    if incident.next_step is not None:
        shown["recoverySeconds"] = f"{max(0.0, incident.next_step - incident.detected):.2f}"
    if incident.steps_lost is not None:
        shown["stepsLost"] = incident.steps_lost
    return shown


def _condition(kind: str, value: str, reason: str, seen: Seen) -> dict[str, str]:
    when = stamp(seen.changed)
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": seen.message[:1000],
        "lastTransitionTime": when,
    }


def thousands(value: float) -> str:
    """A rate with one decimal and a suffix: 1.9M, 12.4k, 87.1."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * (1 - 5e-5):  # what would be shown as 1000.0k is 1.0M
            return f"{decimal(value / limit, 1)}{suffix}"
    return decimal(value, 1)


def decimal(value: float, digits: int) -> str:
    """With so many decimals; one that no column can hold, as of a run that diverged, with an exponent."""
    return f"{value:.{digits}f}" if abs(value) < 1e9 else f"{value:.4g}"
