"""What Kueue says of a run that waits in one of its queues. Pure.

A Workload is there exactly as long as the run wants nodes: made before a start, deleted when its pods are gone. So an
eviction is a suspension with a commit, and the next start waits in the queue again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tessera_api.resolved_run import ResolvedRun
from tessera_api.training_run import TrainingRun

NODES, COORDINATORS = "nodes", "coordinators"
"""A Workload's two sets of pods."""


@dataclass(frozen=True)
class Admission:
    """The Workload of a start."""

    uid: str
    admitted: bool
    evicted: str
    """Why Kueue takes the nodes back; empty while it does not."""
    message: str
    """What it says of the Workload's place in the queue."""
    nodes: int
    """Nodes, spares included, that the Workload asks for."""
    flavors: tuple[str, ...] = ()
    """The kinds of machines that were assigned to the nodes."""
    coordinator_flavors: tuple[str, ...] = ()
    """And to the coordinators."""


@dataclass(frozen=True)
class Queue:
    """A queue that the run has to wait in."""

    admission: Admission | None
    """None: there is no Workload yet, or it has gone."""


def read_admission(workload: Mapping[str, Any]) -> Admission:
    """A Workload as Kueue has it."""
    status = workload.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    sets = {each["name"]: each for each in workload["spec"]["podSets"]}
    assigned = {each["name"]: each for each in (status.get("admission") or {}).get("podSetAssignments") or []}
    evicted, waits = conditions.get("Evicted") or {}, conditions.get("QuotaReserved") or {}
    return Admission(
        uid=str(workload["metadata"]["uid"]),
        admitted=(conditions.get("Admitted") or {}).get("status") == "True",
        evicted=str(evicted.get("message") or "evicted") if evicted.get("status") == "True" else "",
        message=str(waits.get("message") or "no word from Kueue yet")[:1000],
        nodes=int(sets[NODES]["count"]),
        flavors=_flavors(assigned.get(NODES)),
        coordinator_flavors=_flavors(assigned.get(COORDINATORS)),
    )


def _flavors(assigned: Mapping[str, Any] | None) -> tuple[str, ...]:
    return tuple(sorted(set(((assigned or {}).get("flavors") or {}).values())))


def waits_for(run: TrainingRun, queue: Queue | None) -> str:
    """What a run that wants to begin waits for; empty: for nothing."""
    if queue is None or (queue.admission is not None and queue.admission.admitted and not queue.admission.evicted):
        return ""
    words = queue.admission.message if queue.admission is not None else "its Workload is being made"
    return f"it waits in queue {run.spec.queue_name}: {words}"


def must_go(run: TrainingRun, start: ResolvedRun | None, queue: Queue | None) -> str:
    """Why a run that has begun has to give its nodes back; empty: it has not."""
    if start is None or queue is None:
        return ""
    admission = queue.admission
    if admission is None:
        return "its Workload has been deleted"
    if admission.evicted:
        return f"Kueue takes the nodes back: {admission.evicted}"[:1000]
    if not admission.admitted:
        return "Kueue has taken the admission back"
    wanted = run.spec.nodes.count + run.spec.nodes.spares
    if wanted > admission.nodes:
        return f"{wanted} nodes are wanted and {admission.nodes} are admitted: it queues for more"
    return ""
