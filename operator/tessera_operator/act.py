"""Acts: the objects of a run or build, made and deleted. Each may be repeated; the marker of a start comes last."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from tessera_api.dataset_build import DatasetBuild
from tessera_api.orders import Reaped
from tessera_api.times import stamp
from tessera_api.versions import versions
from tessera_operator import names
from tessera_operator.cluster import GROUPS, KUEUE, PRIORITIES, Cluster, Json, core, custom, jobs, network_policies
from tessera_operator.coordinators import Coordinators
from tessera_operator.core.avoidance import Hosts
from tessera_operator.core.key_rotation import first_key
from tessera_operator.core.resolve import Ingredients, Surroundings, resolve, resolve_again
from tessera_operator.core.run_decision import Plan
from tessera_operator.core.slots import DeletePod
from tessera_operator.core.view import View
from tessera_operator.keys import run_keys
from tessera_operator.manifests import build as build_manifests
from tessera_operator.manifests import gang as gang_manifests
from tessera_operator.manifests import run as run_manifests
from tessera_operator.manifests.network import network_policy
from tessera_operator.manifests.run import Owner, Place
from tessera_operator.observe import Found, Pinned, belongs, pinned
from tessera_operator.profiles import Settings

logger = logging.getLogger(__name__)


class InTheWay(Exception):
    """An object of the same name is somebody else's; the pass is tried again later."""


class StartLost(Exception):
    """The start before was deleted by hand; the pass is tried again, and begins nothing on a guess."""


def owner_of(found: Found) -> Owner:
    """Whom the children belong to."""
    return Owner(found.namespace, found.name, found.uid)


async def keep_place(cluster: Cluster, found: Found, view: View, plan: Plan, settings: Settings) -> None:
    """The Workload that waits in Kueue's queue: made and deleted."""
    if plan.release and view.queue is not None and view.queue.admission is not None:
        name = names.start_name(found.name, view.start_number)
        logger.info("workload %s/%s deleted: no node is wanted", found.namespace, name)
        await cluster.delete(custom(KUEUE, found.namespace, "workloads", name), view.queue.admission.uid)
    if plan.enqueue:
        await _enqueue(cluster, found, view, settings)


async def _enqueue(cluster: Cluster, found: Found, view: View, settings: Settings) -> None:
    name, priority = view.run.spec.priority_class_name, None
    if name is not None and (chosen := await cluster.get(custom(PRIORITIES, "", "priorityclasses", name))) is not None:
        priority = int(chosen["value"])
    workload = gang_manifests.workload(owner_of(found), view.run, view.start_number, settings, priority)
    await _create_own(cluster, found, custom(KUEUE, found.namespace, "workloads"), workload)


async def _placed(cluster: Cluster, view: View, settings: Settings) -> Settings:
    """The settings of this start, on the kinds of machines that Kueue has assigned."""
    admission = view.queue.admission if view.queue is not None else None
    kinds = (admission.flavors, admission.coordinator_flavors) if admission is not None else ((), ())
    found: list[list[Json]] = [[], []]
    for flavors, names_of_flavors in zip(found, kinds, strict=True):
        for name in names_of_flavors:
            if (flavor := await cluster.get(custom(KUEUE, "", "resourceflavors", name))) is not None:
                flavors.append(flavor)
    return gang_manifests.placed(settings, view.run.spec.nodes.accelerator, *found)


async def begin_run(cluster: Cluster, found: Found, view: View, settings: Settings, secret: bytes) -> None:
    """Key and services, then run.json, which says that all of them are there."""
    owner = owner_of(found)
    number = first_key(view)
    await _make_key(cluster, found, number, secret)
    doors = [run_manifests.coordinator_service(owner, slot, 0) for slot in names.COORDINATOR_SLOTS]
    for service in (run_manifests.nodes_service(owner), *doors):
        await _create_own(cluster, found, core(found.namespace, "services"), service)
    if settings.network_policies_for:
        policy = network_policy(owner, settings.network_policies_for)
        await _create_own(cluster, found, network_policies(found.namespace), policy)
    accelerator = view.run.spec.nodes.accelerator
    pinned_settings = await _placed(cluster, view, settings)
    profile = pinned_settings.profiles[accelerator]
    group = gang_manifests.pod_group(owner, view.run, view.start_number, settings.gang)
    if group is not None:
        version = group["apiVersion"]
        await _create_own(cluster, found, custom(version, found.namespace, GROUPS[version]), group)
    addresses = names.coordinator_addresses(found.name, found.namespace)
    around = Surroundings(addresses, versions(), found.created, time.time(), number)
    if view.start_number == 1:
        origin = view.origin.start if view.origin is not None else None
        resolved = resolve(view.run, Ingredients(view.datasets, origin), profile, around)
    else:
        before = await pinned(cluster, found, view.start_number - 1)
        if before is None:
            name = names.start_name(found.name, view.start_number - 1)
            raise StartLost(f"ConfigMap {name} is gone, without which nobody knows what decided the run's bits")
        resolved = resolve_again(before.resolved, view.run, profile, around)
    document = run_manifests.start_document(owner, resolved)
    document["data"]["settings.json"] = pinned_settings.model_dump_json(by_alias=True)
    await _create_own(cluster, found, core(found.namespace, "configmaps"), document)


async def keep_key(cluster: Cluster, found: Found, view: View, plan: Plan, secret: bytes) -> None:
    """The key that the status is about to name."""
    if plan.key is not None and (view.status.key is None or plan.key.number > view.status.key.number):
        await _make_key(cluster, found, plan.key.number, secret)


async def _make_key(cluster: Cluster, found: Found, number: int, secret: bytes) -> None:
    """A Secret with one of the run's keys; its name says whose it is, and its bytes follow from that."""
    keys = run_keys(secret, found.uid, number)
    if await cluster.create(core(found.namespace, "secrets"), run_manifests.key_secret(owner_of(found), keys)):
        logger.info("key %d of run %s/%s made", number, found.namespace, found.name)


async def _create_own(cluster: Cluster, found: Found, path: str, document: Json) -> None:
    """Make a child. Raises InTheWay while an older run's of the same name is there: it is about to go."""
    if await cluster.create(path, document):
        return
    name = document["metadata"]["name"]
    there = await cluster.get(f"{path}/{name}")
    if there is None or not belongs(there, found.uid):
        raise InTheWay(f"{path.rpartition('/')[2]} {name} is still that of an older run of the same name")


async def make_pods(cluster: Cluster, found: Found, start: Pinned, plan: Plan) -> None:
    """Pods as the start was begun with: a newer operator or other settings change nothing in a run under way."""
    owner, profile = owner_of(found), next(iter(start.settings.profiles.values()))
    for wanted in plan.make:
        if wanted.slot in names.COORDINATOR_SLOTS:
            service = run_manifests.coordinator_service(owner, wanted.slot, wanted.attempt)
            await cluster.apply(core(found.namespace, "services", service["metadata"]["name"]), service)
            pod = run_manifests.coordinator_pod(owner, start.resolved, start.settings, wanted.slot, wanted.attempt)
        else:
            hosts = plan.hosts or Hosts()
            place = Place(wanted.slot, wanted.attempt, tuple(sorted(hosts.gone)), tuple(sorted(hosts.resting)))
            alone = run_manifests.worker_pod(owner, start.resolved, start.settings, profile, place)
            pod = gang_manifests.join(alone, found.name, start.resolved.start, start.settings)
        if await cluster.create(core(found.namespace, "pods"), pod):
            logger.info("pod %s/%s made", found.namespace, pod["metadata"]["name"])


async def delete_pods(cluster: Cluster, namespace: str, pods: Iterable[DeletePod]) -> None:
    """What was decided to go, by uid."""
    for gone in pods:
        logger.info("pod %s/%s deleted%s: %s", namespace, gone.name, " by force" if gone.force else "", gone.why)
        await cluster.delete(core(namespace, "pods", gone.name), gone.uid, gone.force)


def tell_endings(coordinators: Coordinators, uid: str, view: View) -> None:
    """A pod that has ended is a second source for the coordinator: its node need not be waited for."""
    for pod in view.pods:
        if pod.role == names.WORKER and pod.over and view.answer is not None and pod.name in view.answer.counted:
            coordinators.reaped(uid, Reaped(node=pod.name, agent_pid=1, code=pod.exit_code or 0))


async def make_build(cluster: Cluster, found: Found, build: DatasetBuild, settings: Settings) -> None:
    """The build's manifest, then its Job."""
    document = build_manifests.build_document(build, found.namespace, found.uid)
    await cluster.create(core(found.namespace, "configmaps"), document)
    await cluster.create(jobs(found.namespace), build_manifests.build_job(build, found.namespace, found.uid, settings))


async def say(cluster: Cluster, found: Found, kind: str, reason: str, message: str) -> None:
    """An event of the resource: a transition, told once."""
    now = stamp(time.time())
    event: Json = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{found.name}.", "namespace": found.namespace},
        "involvedObject": {
            "apiVersion": "tessera.dev/v1alpha1",
            "kind": kind,
            "name": found.name,
            "namespace": found.namespace,
            "uid": found.uid,
        },
        "type": "Warning" if reason in ("Failed", "Recovering") else "Normal",
        "reason": reason,
        "message": message[:1000],
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": "tessera-operator"},
    }
    await cluster.create(core(found.namespace, "events"), event)
