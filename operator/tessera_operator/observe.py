"""Observation: everything that decides about a run or a build, read once at the beginning of a pass."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from tessera_api.dataset_build import DatasetBuild, DatasetBuildStatus
from tessera_api.resolved_run import ResolvedRun
from tessera_api.training_run import TrainingRun
from tessera_api.training_run_status import TrainingRunStatus
from tessera_operator import names
from tessera_operator.cluster import (
    FORBIDDEN,
    KUEUE,
    NODE_LEASES,
    Cluster,
    ClusterError,
    Json,
    core,
    custom,
    jobs,
    lease,
    node,
    ours,
)
from tessera_operator.coordinators import Coordinators, readable
from tessera_operator.core.machine_signs import MachineSign, warning_of
from tessera_operator.core.queue import Queue, read_admission
from tessera_operator.core.view import Answer, Machine, OriginSeen, Pod, View
from tessera_operator.profiles import Gang, Settings


@dataclass(frozen=True)
class Found:
    """A resource as it stands in the API."""

    namespace: str
    name: str
    uid: str
    version: str
    generation: int
    created: float
    deleting: bool
    document: Json

    @property
    def rotate_request(self) -> str:
        """The value of the annotation that asks for another key."""
        annotations = self.document["metadata"].get("annotations") or {}
        return str(annotations.get(names.ROTATE_ANNOTATION, ""))[:64]

    @property
    def drill_request(self) -> str:
        """The value of the annotation that asks for a drill."""
        annotations = self.document["metadata"].get("annotations") or {}
        return str(annotations.get(names.DRILL_ANNOTATION, ""))[:200]


@dataclass(frozen=True)
class Pinned:
    """What a start was begun with: its run.json, and the settings of that day."""

    resolved: ResolvedRun
    settings: Settings


class Unreadable(ValueError):
    """The resource is not what this version takes for one: a newer version wrote it, or its schema was passed by."""


async def find(cluster: Cluster, plural: str, namespace: str, name: str) -> Found | None:
    """The resource; None when it is gone."""
    document = await cluster.get(ours(namespace, plural, name))
    if document is None:
        return None
    meta = document["metadata"]
    return Found(
        namespace=namespace,
        name=name,
        uid=meta["uid"],
        version=meta["resourceVersion"],
        generation=int(meta.get("generation", 0)),
        created=seconds(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        document=document,
    )


@dataclass(frozen=True)
class Known:
    """What a pass knows before it looks: the resource as a value, its start, and what other runs have met."""

    run: TrainingRun
    start: ResolvedRun | None
    profiles: frozenset[str]
    pod_templates: bool
    lost_elsewhere: Mapping[str, str]
    queues: bool = False
    queue: Queue | None = None
    key_days: int = 30
    signs: tuple[MachineSign, ...] = ()
    noteworthy: frozenset[str] = frozenset()
    """Nodes of the cluster that bear one of the signs, as far as is known: they are looked at."""


async def view_run(cluster: Cluster, found: Found, known: Known, coordinators: Coordinators) -> View:
    """Raises ClusterError."""
    run, first = known.run, (known.run.status.start if known.run.status else None) or 1
    pods, others = await _pods_of(cluster, found)
    alive = frozenset(pod.name for pod in pods if pod.phase == "Running" and not pod.deleting)
    coordinators.alive(found.uid, alive)
    datasets: dict[str, DatasetBuildStatus | None] = {}
    origin = None
    if known.start is None and first == 1:
        origin = await _origin(cluster, found.namespace, run)
        for entry in run.spec.data.mix:
            datasets[entry.dataset] = await _dataset(cluster, found.namespace, entry.dataset)
    avoided = {entry.node for entry in (run.status.avoided if run.status else None) or ()}
    answer = coordinators.answer(found.uid)
    noteworthy = {pod.node for pod in pods if pod.node is not None} & known.noteworthy
    looked_at = doubtful(pods, answer) | avoided | set(known.lost_elsewhere) | noteworthy
    return View(
        run=run,
        created=found.created,
        generation=found.generation,
        now=time.time(),
        pods=pods,
        others=others,
        start=known.start,
        datasets=datasets,
        origin=origin,
        profiles=known.profiles,
        pod_templates=known.pod_templates,
        queues=known.queues,
        queue=known.queue,
        machines=await machines(cluster, looked_at, known.signs),
        answer=answer,
        rotate_request=found.rotate_request,
        drill_request=found.drill_request,
        key_days=known.key_days,
        lost_elsewhere=known.lost_elsewhere,
    )


async def queue_of(cluster: Cluster, found: Found, run: TrainingRun, start: Pinned | None, gang: Gang) -> Queue | None:
    """The queue that a start waits in, or has waited in; None where it has none. `gang`: of the installation as it is
    now; one that has begun stays with that of its day."""
    queued = start.resolved.run.spec.queue_name if start is not None else run.spec.queue_name
    if queued is None or (start.settings.gang if start is not None else gang) is not Gang.KUEUE:
        return None
    number = (run.status.start if run.status else None) or 1
    path = custom(KUEUE, found.namespace, "workloads", names.start_name(found.name, number))
    document = await cluster.get(path)
    there = document is not None and belongs(document, found.uid) and "deletionTimestamp" not in document["metadata"]
    return Queue(read_admission(document) if there and document is not None else None)


def read_run(found: Found) -> TrainingRun:
    """The resource as a value. Raises Unreadable."""
    try:
        return TrainingRun.parse(found.document)
    except ValidationError as error:
        raise Unreadable(f"this version of the operator can't read the resource: {error}"[:2000]) from error


async def pinned(cluster: Cluster, found: Found, number: int) -> Pinned | None:
    """A start, from the document that its pods read; None when it has not begun."""
    document = await cluster.get(core(found.namespace, "configmaps", names.start_name(found.name, number)))
    if document is None or not belongs(document, found.uid):
        return None
    data = document["data"]
    return Pinned(
        ResolvedRun.model_validate_json(data["run.json"]), Settings.model_validate_json(data["settings.json"])
    )


def belongs(document: Json, uid: str) -> bool:
    """Whether an object is this owner's, and not an older one's of the same name."""
    return any(owner.get("uid") == uid for owner in document["metadata"].get("ownerReferences") or [])


async def _pods_of(cluster: Cluster, found: Found) -> tuple[tuple[Pod, ...], tuple[Pod, ...]]:
    """The run's pods, and those of older runs of its name."""
    documents = await cluster.list(core(found.namespace, "pods"), f"{names.RUN_LABEL}={found.name}")
    mine = [document for document in documents if belongs(document, found.uid)]
    return _read_pods(mine), _read_pods(document for document in documents if document not in mine)


async def pods_named(cluster: Cluster, namespace: str, run: str) -> tuple[Pod, ...]:
    """The pods of every run that has had this name."""
    return _read_pods(await cluster.list(core(namespace, "pods"), f"{names.RUN_LABEL}={run}"))


def _read_pods(documents: Iterable[Json]) -> tuple[Pod, ...]:
    """One that cannot be read is passed over, not the whole pass."""
    read = (read_pod(document) for document in documents)
    return tuple(sorted((pod for pod in read if pod is not None), key=lambda pod: (pod.slot, pod.attempt)))


def read_pod(document: Json) -> Pod | None:
    """A pod as a value; None where it lacks the labels that every pod of a run has."""
    meta, spec, status = document["metadata"], document.get("spec") or {}, document.get("status") or {}
    labels = meta.get("labels") or {}
    try:
        slot, attempt = labels[names.SLOT_LABEL], int(labels[names.ATTEMPT_LABEL])
    except (KeyError, ValueError):
        return None
    code, words = _ending(status)
    final = _final(words) if labels.get(names.ROLE_LABEL) == names.COORDINATOR else None
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        role=labels.get(names.ROLE_LABEL, ""),
        slot=slot,
        attempt=attempt,
        phase=status.get("phase", "Pending"),
        node=spec.get("nodeName"),
        created=seconds(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        exit_code=code,
        message="" if final is not None else words or _waits_for(status),
        final=final,
        out_of_memory=_reason(status) == "OOMKilled",
        avoids=frozenset(filter(None, (meta.get("annotations") or {}).get(names.AVOIDS_ANNOTATION, "").split(","))),
    )


def _final(words: str) -> TrainingRunStatus | None:
    """The final status that a coordinator has left; None where its last words are others."""
    try:
        document = json.loads(words)
    except ValueError:
        return None
    return readable(document, TrainingRunStatus()) if isinstance(document, dict) else None


def _ending(status: Json) -> tuple[int | None, str]:
    """Exit code and last words of the pod's one container, the last time that it ended."""
    ended = _terminated(status)
    if ended is None:
        return None, ""
    return int(ended.get("exitCode", 1)), str(ended.get("message") or ended.get("reason") or "")


def _reason(status: Json) -> str:
    return str((_terminated(status) or {}).get("reason") or "")


def _terminated(status: Json) -> Json | None:
    for container in status.get("containerStatuses") or []:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if ended := state.get("terminated"):
                found: Json = ended
                return found
    return None


def _waits_for(status: Json) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or "")[:500]
    for container in status.get("containerStatuses") or []:
        if waiting := (container.get("state") or {}).get("waiting"):
            return f"{waiting.get('reason', '')}: {waiting.get('message', '')}"[:500]
    return ""


async def _dataset(cluster: Cluster, namespace: str, name: str) -> DatasetBuildStatus | None:
    found = await find(cluster, "datasetbuilds", namespace, name)
    if found is None:
        return None
    try:
        return DatasetBuild.parse(found.document).status or DatasetBuildStatus()
    except ValidationError:
        return DatasetBuildStatus()


async def _origin(cluster: Cluster, namespace: str, run: TrainingRun) -> OriginSeen | None:
    origin = run.spec.model.from_
    if origin is None or origin.run is None:
        return None
    found = await find(cluster, "trainingruns", namespace, origin.run)
    if found is None:
        return None
    try:
        status = read_run(found).status or TrainingRunStatus()
    except Unreadable:
        return OriginSeen(TrainingRunStatus(), None)
    begun = await pinned(cluster, found, 1)
    return OriginSeen(status, begun.resolved if begun is not None else None)


async def machines(
    cluster: Cluster, names_of_nodes: Iterable[str], signs: tuple[MachineSign, ...] = ()
) -> dict[str, Machine | None]:
    """What Kubernetes knows of these nodes, and which of the signs they bear; None of one that is gone."""
    wanted = sorted(set(names_of_nodes))
    if not wanted:
        return {}
    leases = {entry["metadata"]["name"]: entry for entry in await cluster.first(lease(NODE_LEASES))}
    for name in wanted:
        if name not in leases and (found := await cluster.get(lease(NODE_LEASES, name))) is not None:
            leases[name] = found
    renewals = {name: _renewed(entry) for name, entry in leases.items()}
    newest = max(renewals.values(), default=0.0)
    seen: dict[str, Machine | None] = {}
    for name in wanted:
        document, renewed = await _node(cluster, name, renewals), renewals.get(name)
        late = newest - renewed if renewed is not None else None
        seen[name] = _machine(document, late, renewed or 0.0, signs) if document is not None else None
    return seen


async def _node(cluster: Cluster, name: str, renewals: Mapping[str, float]) -> Json | None:
    """The Node; None where it is gone."""
    try:
        return await cluster.get(node(name))
    except ClusterError as error:
        if error.status != FORBIDDEN:
            raise
        # With rights in some namespaces only: the lease, which goes with its node, tells as much.
        return _UNREAD if name in renewals else None


_UNREAD: Json = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
"""A Node that may not be read: what is known of it is its lease."""


def _machine(document: Json, late: float | None, renewed: float, signs: tuple[MachineSign, ...]) -> Machine:
    conditions = (document.get("status") or {}).get("conditions") or []
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    return Machine(ready, late, renewed, warning_of(document, signs))


def _renewed(entry: Json) -> float:
    renewed = (entry.get("spec") or {}).get("renewTime")
    return seconds(renewed) if renewed else 0.0


def doubtful(pods: Iterable[Pod], answer: Answer | None) -> set[str]:
    """The nodes whose state decides something: of pods that are going, that have not begun, or that nobody hears of."""
    heard = answer is not None and answer.fresh

    def settled(pod: Pod) -> bool:
        counted = heard and answer is not None and answer.counts(pod)
        return pod.over or (counted and pod.phase == "Running" and not pod.deleting)

    return {pod.node for pod in pods if pod.node is not None and not settled(pod)}


@dataclass(frozen=True)
class BuildSeen:
    """What decides about a build."""

    build: DatasetBuild
    job: Json | None
    pods: tuple[Json, ...]


async def view_build(cluster: Cluster, found: Found) -> BuildSeen:
    """Raises Unreadable, ClusterError."""
    try:
        build = DatasetBuild.parse(found.document)
    except ValidationError as error:
        raise Unreadable(f"this version of the operator can't read the resource: {error}"[:2000]) from error
    job = await cluster.get(jobs(found.namespace, names.build_name(found.name)))
    if job is not None and not belongs(job, found.uid):
        job = None
    selector = f"{names.BUILD_LABEL}={found.name},{names.ROLE_LABEL}={names.BUILDER}"
    pods = await cluster.list(core(found.namespace, "pods"), selector)
    uid = job["metadata"]["uid"] if job else ""
    return BuildSeen(build, job, tuple(pod for pod in pods if belongs(pod, uid)))


def seconds(text: Any) -> float:
    """Unix seconds of a Kubernetes time."""
    return datetime.fromisoformat(str(text).replace("Z", "+00:00")).astimezone(UTC).timestamp()
