"""What to do about a run: ordered rules from what was seen to what is to be done. Pure.

Phase is output, never input. The first rule that speaks ends the list.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tessera_api.drill import Drill
from tessera_api.exit_codes import ExitCode
from tessera_api.orders import Size, WarnedNode, Warnings
from tessera_api.times import seconds_of
from tessera_api.training_run import TrainingRun
from tessera_api.training_run_status import PodAttempts, ShownKey, TrainingRunStatus
from tessera_operator import names
from tessera_operator.core.active_time import deadline_passed
from tessera_operator.core.avoidance import Hosts, hosts
from tessera_operator.core.drill_request import drill_of
from tessera_operator.core.key_rotation import newest_key
from tessera_operator.core.prerequisites import Blocked, blocked_by, queued, succeeded
from tessera_operator.core.queue import must_go
from tessera_operator.core.slots import (
    DeletePod,
    MakePod,
    attempts,
    due,
    forceable,
    given_up,
    leaving,
    slots_of,
    to_delete,
    to_make,
)
from tessera_operator.core.view import Pod, View

SOON = 5.0
SETTLED = 12.0
"""A run in which nothing moves is looked at as often as its numbers are written; its coordinator wakes it before."""
LATER = 60.0
QUEUED = 15.0
"""Its Workload wakes a run that is admitted before."""
FAREWELL_SECONDS = 30.0
"""So long a pod may take to hear of the end and to go by itself: one that began to look for the coordinator when that
had gone would look for ever."""
STOP_SECONDS = 60.0
"""That a stop gives the run to park and commit."""
MEMORY_TRIES = 3
"""So many pods of a slot that end at their memory limit, one after the other, end a run that has made no step."""
SUSPENDED = "the run is suspended"


@dataclass(frozen=True)
class Plan:
    """What a pass does, in this order: write `attempts` and who is avoided, make the start, pods, deletions."""

    attempts: dict[str, PodAttempts] = field(default_factory=dict)
    hosts: Hosts | None = None
    """What is known of the cluster's nodes; None: what was."""
    enqueue: bool = False
    """Make the Workload that waits in Kueue's queue."""
    release: bool = False
    """Delete it: no node is wanted any more."""
    key: ShownKey | None = None
    """The newest of the run's keys, which is made where the status names an older one."""
    begin: bool = False
    """Make what every pod needs: key, services, run.json."""
    make: tuple[MakePod, ...] = ()
    delete: tuple[DeletePod, ...] = ()
    blocked: Blocked | None = None
    over: Over | None = None
    stop: str = ""
    """Why the run is to stop at its next step, with a commit; empty where it is not."""
    size: Size | None = None
    drill: Drill | None = None
    """A fault that somebody has asked for."""
    warnings: Warnings | None = None
    """The nodes that are to hand over; None while there is no coordinator to know of them."""
    """How many nodes the run is to have, which are to leave."""
    suspended: bool = False
    """Nothing of the run is there, and nothing is wanted."""
    expired: bool = False
    """The resource has outlived its time after the run's end: delete it."""
    start: int | None = None
    """The start that comes next, where it is not the one before."""
    look_again: float | None = LATER
    """Seconds until the next pass, if nothing wakes the key before; None: not before."""


@dataclass(frozen=True)
class Over:
    """How the run ended."""

    succeeded: bool
    reason: str
    message: str


def decide(view: View) -> Plan:
    """See the module."""
    if view.start is None and view.run.spec.suspend:
        gone = tuple(_all(view, SUSPENDED))
        return Plan(suspended=True, release=_admission(view), delete=gone, look_again=SOON if view.pods else None)
    if view.start is None:
        return _begin(view)
    if (over := ended(view)) is not None:
        return _after(view, over)
    if (late := deadline_passed(view)) is not None:
        return _end_in_time(view, late)
    if view.run.spec.suspend:
        return _give_back(view, SUSPENDED)
    if (evicted := must_go(view.run, view.start, view.queue)) != "":
        return _give_back(view, evicted)
    wanted = attempts(view)
    if (over := _out_of_memory(view, wanted)) is not None:
        return Plan(over=over, look_again=SOON)
    waits = [due(entry) - view.now for entry in wanted.values() if due(entry) > view.now]
    return Plan(
        attempts=wanted,
        hosts=hosts(view, given_up(view)),
        key=newest_key(view),
        make=tuple(to_make(view, wanted)),
        delete=tuple(to_delete(view, wanted)),
        size=_size(view),
        warnings=_warnings(view),
        drill=drill_of(view.drill_request),
        look_again=max(0.2, min([SOON if _moving(view) else SETTLED, *waits])),
    )


def _begin(view: View) -> Plan:
    """Wait for what lacks, then in the queue, then begin."""
    if (blocked := blocked_by(view)) is not None:
        return Plan(blocked=blocked, release=_admission(view), look_again=LATER)
    if (waits := queued(view)) is not None:
        admission = view.queue.admission if view.queue is not None else None
        # One that was evicted before the start had begun is Kueue's no more, and would wait for ever.
        evicted = admission is not None and admission.evicted != ""
        soon = SOON if admission is None or evicted else QUEUED
        return Plan(blocked=waits, enqueue=admission is None, release=evicted, look_again=soon)
    return Plan(begin=True, look_again=0.0)


def _admission(view: View) -> bool:
    """Whether there is a Workload that could be given back."""
    return view.queue is not None and view.queue.admission is not None


def _out_of_memory(view: View, wanted: dict[str, PodAttempts]) -> Over | None:
    """A run whose pods end at their memory limit again and again, before any step: trying on would help nobody."""
    slot = next((entry.slot for entry in wanted.values() if entry.out_of_memory >= MEMORY_TRIES), None)
    if slot is None or step_of(view.answer.status if view.answer is not None else view.status) > 0:
        return None
    assert view.start is not None
    profile = view.start.run.spec.nodes.accelerator
    words = f"{MEMORY_TRIES} pods of {slot} in a row were killed at the memory limit of profile {profile} before a step"
    remedy = "lower training.unit or data.sequenceLength, or ask for more memory in podTemplate.resources"
    return Over(False, "OutOfMemory", f"{words}: {remedy}")


def step_of(status: TrainingRunStatus) -> int:
    """Steps done, as a status tells it."""
    return int((status.step or "0/0").partition("/")[0])


def _size(view: View) -> Size | None:
    """What the coordinator is to know of the resource; None where that takes another start."""
    assert view.start is not None
    nodes, begun = view.run.spec.nodes, view.start.run.spec.nodes
    if nodes.processes_per_node != begun.processes_per_node:
        return None
    return Size(count=nodes.count, min=nodes.min, leaving=leaving(view))


def _warnings(view: View) -> Warnings:
    workers = [pod for pod in view.pods if pod.role == names.WORKER and not pod.over and not pod.deleting]
    found = [(pod, warning) for pod in workers if (warning := view.warned(pod)) is not None]
    return Warnings(
        nodes=tuple(
            WarnedNode(node=pod.name, reason=warning.words, within_seconds=warning.seconds, sick=warning.sick)
            for pod, warning in found
        )
    )


def _after(view: View, over: Over) -> Plan:
    """The run has ended: what is left of it goes, and in the end the resource, if that is wished for."""
    gone, again = tuple(_leftovers(view)), SOON if _restless(view) else None
    plan = Plan(delete=gone, over=over, release=_admission(view) and not _restless(view), look_again=again)
    kept = view.run.spec.ttl_seconds_after_finished
    if kept is None or written_end(view.status) is None:
        return plan
    left = _ended_at(view) + kept - view.now
    return replace(plan, expired=left <= 0, look_again=min(plan.look_again or left, max(left, 0.2)))


def _give_back(view: View, why: str) -> Plan:
    """Stop with a commit, then give everything back; the next start has pods of other names."""
    if not view.pods:
        numbers = {entry.slot: entry.attempt for entry in view.status.attempts or ()}
        after = {slot: PodAttempts(slot=slot, attempt=numbers.get(slot, 0) + 1) for slot in {*slots_of(view), *numbers}}
        shown = {"suspended": True} if view.run.spec.suspend else {"blocked": Blocked("Evicted", why)}
        next_one: dict[str, Any] = {"start": view.start_number + 1, "release": _admission(view), "look_again": 0.0}
        return Plan(attempts=after, **next_one, **shown)
    known = {entry.slot: entry for entry in view.status.attempts or ()}
    if _has_stopped(view):
        return Plan(attempts=known, delete=tuple(_all(view, why)), look_again=SOON)
    workers = [pod for pod in view.pods if pod.role == names.WORKER]
    idle = [DeletePod(pod.name, pod.uid, False, why) for pod in workers if pod.phase == "Pending"]
    return Plan(attempts=known, stop=why, delete=tuple(idle), look_again=SOON)


def _has_stopped(view: View) -> bool:
    """Whether an order to stop was obeyed, or nobody is there to obey it."""
    closed = view.answer is not None and view.answer.closed is not None
    return closed or all(pod.over for pod in view.pods if pod.role == names.WORKER) or _unheard(view)


def _end_in_time(view: View, late: str) -> Plan:
    """The run has had its time: it commits its step, then it has failed."""
    known = {entry.slot: entry for entry in view.status.attempts or ()}
    if not view.pods or _has_stopped(view):
        words = f"{late}: delete the run and create it with more time, and it goes on from its last commit"
        return Plan(attempts=known, over=Over(False, "DeadlineExceeded", words), look_again=SOON)
    return Plan(attempts=known, stop=late, look_again=SOON)


def may_stop(run: TrainingRun, evicted: bool) -> bool:
    """Whether an order to stop that was given still stands."""
    limit, seconds = run.spec.active_deadline_seconds, run.status.active_seconds if run.status else None
    return run.spec.suspend or evicted or (limit is not None and (seconds or 0) >= limit)


def _unheard(view: View) -> bool:
    """Whether nobody is there who could take the order to stop."""
    age = view.answer.age if view.answer is not None else max(view.now - pod.created for pod in view.pods)
    return age > STOP_SECONDS


def _all(view: View, why: str) -> list[DeletePod]:
    lost = [DeletePod(pod.name, pod.uid, True, f"node {pod.node} is lost") for pod in view.pods if forceable(view, pod)]
    return lost + [DeletePod(pod.name, pod.uid, False, why) for pod in view.pods if not pod.deleting]


def written_end(status: TrainingRunStatus) -> Over | None:
    """The end that stands in the resource: it stays so."""
    known = succeeded(status.conditions)
    if known is None or known.status == "Unknown":
        return None
    return Over(known.status == "True", known.reason, known.message)


def ended(view: View) -> Over | None:
    """How the run ended, as its coordinator says it, or its exit code when nobody heard it."""
    known = written_end(view.status)
    if known is not None:
        return known
    answer = view.answer
    state = succeeded(answer.status.conditions if answer else ())
    if answer is not None and answer.closed is not None and state is not None and state.status != "Unknown":
        well = state.status == "True"
        return Over(well, "Complete" if well else "Failed", answer.closed[:2000])
    coordinators = [pod for pod in view.pods if pod.role == names.COORDINATOR]
    ends = [_left_behind(pod) for pod in coordinators] + [_said_by_code(pod) for pod in coordinators]
    return next(filter(None, ends), None)


def _left_behind(pod: Pod) -> Over | None:
    state = succeeded(pod.final.conditions if pod.final is not None else ())
    if state is None or state.status == "Unknown":
        return None
    return Over(state.status == "True", "Complete" if state.status == "True" else "Failed", state.message[:2000])


def _said_by_code(pod: Pod) -> Over | None:
    match pod.exit_code:
        case ExitCode.DONE if pod.over:
            return Over(True, "Complete", "the run is complete")
        case ExitCode.TROUBLE | ExitCode.WRONG_INPUT:
            return Over(False, "Failed", pod.message[-2000:] or "the coordinator ended without a word")
        case _:
            return None


def _leftovers(view: View) -> list[DeletePod]:
    """After the end: pods that never trained, that outstay it, or whose node is lost."""
    lost = [DeletePod(pod.name, pod.uid, True, f"node {pod.node} is lost") for pod in view.pods if forceable(view, pod)]
    staying = [pod for pod in view.pods if not pod.deleting and not pod.over and _outstays(view, pod)]
    return lost + [DeletePod(pod.name, pod.uid, False, "the run has ended") for pod in staying]


def _outstays(view: View, pod: Pod) -> bool:
    if view.suspect(pod) or view.now - _ended_at(view) > FAREWELL_SECONDS:
        return True
    if pod.role == names.COORDINATOR:
        return bool(pod.exit_code)  # it would be started again and again
    return pod.phase == "Pending"


def _ended_at(view: View) -> float:
    """Unix seconds of the written end; now while it is not written yet."""
    known = next((c for c in view.status.conditions or () if c.type == "Succeeded" and c.status != "Unknown"), None)
    since = known.last_transition_time if known else None
    return seconds_of(since) if since else view.now


def _moving(view: View) -> bool:
    heard = view.answer is not None and view.answer.fresh
    return not heard or any(pod.deleting or pod.phase != "Running" for pod in view.pods)


def _restless(view: View) -> bool:
    return any(not pod.over for pod in view.pods)
