"""Slots: which pod is meant to be in each, and which pods must go. Pure.

What must stay true: a pod is given up only when it has ended, is being deleted, or two sources agree that its node is
lost (the run's coordinator, which counts it no more, and either some seconds of its answers or Kubernetes); nothing is
deleted by force but what is being deleted already, counted by nobody, on a node that Kubernetes doubts too; a slot
whose pods end at once is tried ever more slowly, and never given up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tessera_api.times import seconds_of, stamp
from tessera_api.training_run_status import PodAttempts
from tessera_operator import names
from tessera_operator.core.avoidance import lost, lost_nodes
from tessera_operator.core.view import Pod, View

QUICK_SECONDS = 30.0
FREE_QUICK_ENDS = 3
LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class MakePod:
    """A pod that is meant to be there and is not."""

    slot: str
    attempt: int


@dataclass(frozen=True)
class DeletePod:
    """A pod that has to go. `uid` keeps a newer one of the same name safe."""

    name: str
    uid: str
    force: bool
    why: str


def slots_of(view: View) -> list[str]:
    """The coordinators' slots, then one for each node."""
    nodes = view.run.spec.nodes
    coordinators = names.coordinator_slots(view.start.coordinator) if view.start else names.COORDINATOR_SLOTS
    return [*coordinators, *names.node_slots(nodes.count + nodes.spares)]


def attempts(view: View) -> dict[str, PodAttempts]:
    """Which pod is meant to be in each slot from now on. It is written down before anything is done about it."""
    before = {entry.slot: entry for entry in view.status.attempts or ()}
    pods = {(pod.slot, pod.attempt): pod for pod in view.pods}
    after = {}
    for slot in slots_of(view):
        entry = before.get(slot) or PodAttempts(slot=slot, attempt=0)
        pod = pods.get((slot, entry.attempt))
        after[slot] = _next(entry, pod, view.now) if pod is not None and _given_up(view, pod) else entry
    return after


def given_up(view: View) -> list[Pod]:
    """The pods that this pass gives up, which are meant to be there until then."""
    meant = {entry.slot: entry.attempt for entry in view.status.attempts or ()}
    return [pod for pod in view.pods if pod.attempt == meant.get(pod.slot, 0) and _given_up(view, pod)]


def _given_up(view: View, pod: Pod) -> bool:
    if pod.deleting or pod.over:
        return True
    if pod.phase == "Pending":
        # It never ran: placed on a node that died, or kept off one that has come back.
        return view.suspect(pod) or (pod.node is None and not pod.avoids <= set(lost_nodes(view)))
    if pod.role == names.COORDINATOR:
        answer = view.answer
        return view.suspect(pod) and (answer is None or not answer.fresh or not answer.counts(pod))
    return lost(view, pod) or _idle_on_a_warned_machine(view, pod)


def _idle_on_a_warned_machine(view: View, pod: Pod) -> bool:
    """It has handed over: better that another stands ready elsewhere."""
    answer = view.answer
    if answer is None or not answer.fresh or view.warned(pod) is None:
        return False
    return bool(answer.training) and answer.counts(pod) and pod.name not in answer.training


def _next(entry: PodAttempts, pod: Pod, now: float) -> PodAttempts:
    quick = entry.quick + 1 if pod.over and now - pod.created < QUICK_SECONDS else 0
    memory = entry.out_of_memory + 1 if pod.out_of_memory else 0
    ends = {"quick": min(quick, 1000), "out_of_memory": min(memory, 1000)}
    return PodAttempts(slot=entry.slot, attempt=entry.attempt + 1, since=stamp(now), **ends)


def due(entry: PodAttempts) -> float:
    """Unix seconds from which the pod may be made."""
    over = entry.quick - FREE_QUICK_ENDS
    if entry.since is None or over <= 0:
        return 0.0
    return seconds_of(entry.since) + float(min(LONGEST_WAIT, 2.0 ** min(over, 10)))


def to_make(view: View, wanted: dict[str, PodAttempts]) -> list[MakePod]:
    """The pods that are meant to be there and are not, coordinator first."""
    there = {(pod.slot, pod.attempt) for pod in view.pods}
    return [
        MakePod(entry.slot, entry.attempt)
        for entry in wanted.values()
        if (entry.slot, entry.attempt) not in there and due(entry) <= view.now
    ]


def to_delete(view: View, wanted: dict[str, PodAttempts]) -> list[DeletePod]:
    """Pods that have been replaced, and slots that are not wanted any more."""
    return list(_to_delete(view, wanted))


def _to_delete(view: View, wanted: dict[str, PodAttempts]) -> Iterator[DeletePod]:
    for pod in view.pods:
        entry = wanted.get(pod.slot)
        if entry is not None and pod.attempt >= entry.attempt:
            continue
        if pod.deleting:
            if forceable(view, pod):
                yield DeletePod(pod.name, pod.uid, True, f"node {pod.node} is lost")
        elif entry is None and _trains(view, pod):
            continue  # it is asked to leave first
        elif not pod.over or entry is None or pod.attempt < entry.attempt - 1:
            # The one before stays when it has ended by itself: its log says why.
            yield DeletePod(pod.name, pod.uid, False, "replaced" if entry else "no longer wanted")


def _trains(view: View, pod: Pod) -> bool:
    return view.answer is not None and pod.name in view.answer.training and not pod.over


def leaving(view: View) -> tuple[str, ...]:
    """The nodes that are to train no more, since their slots are no longer wanted."""
    wanted = set(slots_of(view))
    return tuple(pod.name for pod in view.pods if pod.slot not in wanted and not pod.over and not pod.deleting)


def forceable(view: View, pod: Pod) -> bool:
    """Whether a pod that is being deleted may leave the API before its kubelet says so."""
    counted = view.answer is not None and view.answer.fresh and view.answer.counts(pod)
    return pod.deleting and not counted and view.suspect(pod)
