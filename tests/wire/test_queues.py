"""Kueue's, the scheduler plugin's and Kubernetes' own gangs: what the operator writes, judged by a real API server with
the definitions that these projects ship. What Kueue's controller would do is done by hand."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import pytest

from tessera_operator.core.queue import COORDINATORS, NODES
from tessera_operator.manifests.gang import join, pod_group
from tessera_operator.manifests.run import Owner, Place, worker_pod
from tessera_operator.profiles import Gang, Profile, Settings
from tessera_operator.reconcile import BUILD, RUN
from tessera_operator.wakes import Key
from tests.cluster.control_plane import ControlPlane
from tests.cluster.go_programs import ProgramsUnavailable, module_source
from tests.unit.operator_world import RUN as A_RUN
from tests.unit.operator_world import a_run, a_start, an_answer
from tests.unit.test_operator_builds import BUILD as A_BUILD
from tests.wire import operator_passes as server

KUEUE = ("sigs.k8s.io/kueue", "v0.17.0", "config/components/crd/bases")
PLUGINS = ("sigs.k8s.io/scheduler-plugins", "v0.33.5", "config/crd/bases")
QUEUED = {**A_RUN, "spec": {**A_RUN["spec"], "queueName": "team", "priorityClassName": "urgent"}}
FLAVOR = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "kind": "ResourceFlavor",
    "metadata": {"name": "spot"},
    "spec": {"nodeLabels": {"pool": "spot"}},
}
URGENT = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "urgent"},
    "value": 1000,
}


def define(plane: ControlPlane, module: tuple[str, str, str], *files: str) -> None:
    """The definitions of another project."""
    path, version, folder = module
    try:
        source = module_source(path, version) / folder
    except ProgramsUnavailable as reason:
        if os.environ.get("TESSERA_REQUIRE_CLUSTER") == "1":
            raise
        pytest.skip(str(reason))
    for file in files:
        done = plane.kubectl("apply", "--server-side", "-f", str(source / file))
        assert done.returncode == 0, done.stderr
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


@pytest.fixture(scope="module")
def kueue(plane: ControlPlane) -> ControlPlane:
    """A server that knows Workloads, a flavor and a priority."""
    define(plane, KUEUE, "kueue.x-k8s.io_workloads.yaml", "kueue.x-k8s.io_resourceflavors.yaml")
    for document in (FLAVOR, URGENT):
        done = plane.apply(document)
        assert done.returncode == 0, done.stderr
    return plane


def conditions(**said: tuple[str, str]) -> list[dict[str, str]]:
    since = "2026-11-27T12:00:00Z"
    return [
        {"type": kind, "status": status, "reason": "Because", "message": message, "lastTransitionTime": since}
        for kind, (status, message) in said.items()
    ]


def judge(plane: ControlPlane, namespace: str, name: str, evicted: str = "") -> None:
    """What Kueue writes when it admits a Workload, and when it takes the admission back."""
    counts = {NODES: 3, COORDINATORS: 2}
    sets = [{"name": each, "flavors": {"cpu": "spot"}, "count": count} for each, count in counts.items()]
    said = {"QuotaReserved": ("True", "Quota reserved in ClusterQueue all"), "Admitted": ("True", "admitted")}
    said |= {"Evicted": ("True", evicted)} if evicted else {}
    status = {"admission": {"clusterQueue": "all", "podSetAssignments": sets}, "conditions": conditions(**said)}
    server.patch_status(plane, namespace, "workloads.kueue.x-k8s.io", name, status)


def workloads(plane: ControlPlane, namespace: str) -> list[str]:
    text = plane.kubectl("get", "workloads.kueue.x-k8s.io", "--namespace", namespace, "-o", "json").stdout
    return server.names(json.loads(text)["items"])


def prepared(plane: ControlPlane, namespace: str) -> dict[str, Any]:
    found = server.shown(plane, namespace, "trainingrun", "gpt")["status"]["conditions"]
    (state,) = [each for each in found if each["type"] == "Prepared"]
    return dict(state)


def pods(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    text = plane.kubectl("get", "pods", "--namespace", namespace, "-o", "json").stdout
    return list(json.loads(text)["items"])


def test_a_run_waits_in_kueues_queue_is_evicted_with_a_commit_and_waits_again(kueue: ControlPlane) -> None:
    plane, team, gpt = kueue, "kueued", Key(RUN, "kueued", "gpt")
    settings = server.SETTINGS.model_copy(update={"gang": Gang.KUEUE})

    async def story() -> None:
        server.apply(plane, team, A_BUILD, QUEUED)
        async with server.operator(plane, settings=settings) as (reconciler, _, hearing):
            await reconciler.work(Key(BUILD, team, "stdlib"))
            server.patch_status(plane, team, "datasetbuild", "stdlib", server.BUILT)

            await server.passes(reconciler, gpt, 3)
            assert (workloads(plane, team), pods(plane, team)) == (["gpt-start-1"], [])
            assert prepared(plane, team)["reason"] == "Queued"
            workload = server.shown(plane, team, "workloads.kueue.x-k8s.io", "gpt-start-1")
            assert [(each["name"], each["count"]) for each in workload["spec"]["podSets"]] == [
                ("nodes", 3),
                ("coordinators", 2),
            ]
            assert (workload["spec"]["queueName"], workload["spec"]["priority"]) == ("team", 1000)

            judge(plane, team, "gpt-start-1")
            await server.passes(reconciler, gpt, 3)
            made = pods(plane, team)
            assert (len(made), {pod["spec"]["nodeSelector"]["pool"] for pod in made}) == (5, {"spot"})

            judge(plane, team, "gpt-start-1", evicted="Preempted to accommodate a workload")
            hearing.said = an_answer(closed="stopped at step 40")
            await server.passes(reconciler, gpt, 2)
            for pod in pods(plane, team):  # as their kubelets do at the end of their grace
                plane.kubectl("delete", "pod", pod["metadata"]["name"], "--namespace", team, "--force")
            hearing.said = None
            await server.passes(reconciler, gpt, 4)
            assert pods(plane, team) == []
            assert workloads(plane, team) == ["gpt-start-2"]
            assert server.shown(plane, team, "trainingrun", "gpt")["status"]["start"] == 2
            assert prepared(plane, team)["reason"] == "Queued"

            judge(plane, team, "gpt-start-2")
            await server.passes(reconciler, gpt, 3)
            assert server.names(pods(plane, team)) == ["gpt-c0-1", "gpt-c1-1", "gpt-n0-1", "gpt-n1-1", "gpt-n2-1"]

    server.run(story())


@pytest.mark.parametrize("gang", [Gang.COSCHEDULING, Gang.NATIVE])
def test_the_server_takes_a_group_and_the_pods_that_name_it(plane: ControlPlane, gang: Gang) -> None:
    if gang is Gang.COSCHEDULING:
        define(plane, PLUGINS, "scheduling.x-k8s.io_podgroups.yaml")
    plane.kubectl("create", "namespace", "gangs")
    owner, run = Owner("gangs", f"gpt-{gang}", "00000000-0000-0000-0000-000000000001"), a_run()
    settings = Settings(trainer_image="trainer:1", operator_image="operator:1", gang=gang, scheduler_name="gangs")
    group = pod_group(owner, run, 1, gang)
    pod = join(worker_pod(owner, a_start(run), settings, Profile(), Place("n0", 0)), owner.name, 1, settings)
    assert group is not None

    for document in (group, pod):
        alone = copy.deepcopy(document)
        del alone["metadata"]["ownerReferences"]
        done = plane.apply(alone)
        assert done.returncode == 0, done.stderr
