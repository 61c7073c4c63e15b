"""Nodes of the cluster that get no pod of a run, or no more than they have to. Pure.

A node that is lost is avoided, by every run, until its kubelet has reported again. One that a run has lost, or on which
its pods have ended, again and again rests for a time although it reports: that run's pods go there only where no other
node has room. What must stay true: a few at most rest from a run, so that a bad day cannot exclude the whole cluster;
nobody cordons anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tessera_api.exit_codes import ExitCode
from tessera_api.times import seconds_of, stamp
from tessera_api.training_run_status import NodeLosses
from tessera_operator import names
from tessera_operator.core.view import Pod, View

RETURN_SECONDS = 15.0
"""So long after its loss a node must have reported before it is taken again: longer than a report may be under way."""
MOST_KEPT = 64
START_PATIENCE = 120.0
"""A pod on a suspect node that was never counted is given up only when it is as old."""
AGAIN_AND_AGAIN = 3
"""So many losses, each within a day of the one before, are no chance."""
FORGET_SECONDS = 86400.0
REST_SECONDS = 3600.0
"""So long after the last of them the node is the last that a pod of the run is placed on."""


@dataclass(frozen=True)
class Hosts:
    """What a pass knows of the cluster's nodes."""

    gone: dict[str, str] = field(default_factory=dict)
    """Nodes that are lost, each with the time: no run gets a pod there."""
    resting: dict[str, str] = field(default_factory=dict)
    """Nodes that this run has lost again and again, each with its last loss: the last that its pods are placed on."""
    losses: dict[str, NodeLosses] = field(default_factory=dict)
    """How often it has lost each node."""

    @property
    def avoided(self) -> dict[str, str]:
        """All of them that stand in the status."""
        return {**self.resting, **self.gone}


def hosts(view: View, given_up: Iterable[Pod]) -> Hosts:
    """With the pods that this pass gives up."""
    counted = losses(view, given_up)
    return Hosts(lost_nodes(view), resting(view, counted), counted)


def lost(view: View, pod: Pod) -> bool:
    """Whether a node that runs, as far as Kubernetes knows, is counted by the run no more."""
    answer = view.answer
    if answer is None or not answer.fresh or answer.counts(pod) or pod.phase != "Running":
        return False
    return pod.name in answer.missing or (view.suspect(pod) and view.now - pod.created > START_PATIENCE)


def losses(view: View, given_up: Iterable[Pod]) -> dict[str, NodeLosses]:
    """How often the run has lost each node of the cluster, these pods included. One that ended at its own memory limit,
    or in the wrong, says nothing about its node."""
    counted = {entry.node: entry for entry in view.status.losses or () if _recent(entry, view.now, FORGET_SECONDS)}
    for pod in given_up:
        blamed = lost(view, pod) or (pod.over and pod.exit_code not in (None, 0) and not pod.out_of_memory)
        if pod.role == names.WORKER and pod.node is not None and not pod.deleting and blamed:
            before = counted[pod.node].count if pod.node in counted else 0
            # A node that the run itself has sent away had failed it again and again already.
            more = AGAIN_AND_AGAIN if pod.exit_code == ExitCode.REPLACED else 1
            counted[pod.node] = NodeLosses(node=pod.node, count=min(before + more, 1000), last=stamp(view.now))
    return dict(sorted(counted.items(), key=lambda item: item[1].last)[-MOST_KEPT:])


def _recent(entry: NodeLosses, now: float, seconds: float) -> bool:
    return now - seconds_of(entry.last) < seconds


def resting(view: View, counted: dict[str, NodeLosses]) -> dict[str, str]:
    """The nodes that fail again and again, each with its last loss: the worst, as many as a quarter of the run's
    nodes, one at least."""
    bad = [
        entry for entry in counted.values() if entry.count >= AGAIN_AND_AGAIN and _recent(entry, view.now, REST_SECONDS)
    ]
    nodes = view.run.spec.nodes
    budget = max(1, (nodes.count + nodes.spares) // 4)
    worst = sorted(bad, key=lambda entry: (-entry.count, entry.node))[:budget]
    return {entry.node: entry.last for entry in worst}


def lost_nodes(view: View) -> dict[str, str]:
    """Nodes that are lost, each with the time: those that the run has just lost, and those that it or another run lost
    before and that have not reported for `RETURN_SECONDS` since; and nodes of its pods that are about to end, or have
    sick devices. The newest `MOST_KEPT`."""
    known = dict(view.lost_elsewhere) | {entry.node: entry.since for entry in view.status.avoided or ()}
    nodes = {node: since for node, since in known.items() if not _returned(view, node, since)}
    now = stamp(view.now)
    for pod in view.pods:
        if pod.role == names.WORKER and not pod.deleting and pod.node is not None and lost(view, pod):
            nodes.setdefault(pod.node, now)
        if pod.role == names.WORKER and pod.node is not None and view.warned(pod) is not None:
            nodes.setdefault(pod.node, now)
    return dict(sorted(nodes.items(), key=lambda item: item[1])[-MOST_KEPT:])


def _returned(view: View, node: str, since: str) -> bool:
    machine = view.machines.get(node)
    well = machine is not None and not machine.suspect and machine.warning is None
    return well and machine is not None and machine.renewed > seconds_of(since) + RETURN_SECONDS
