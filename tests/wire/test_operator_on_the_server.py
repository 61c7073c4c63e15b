"""The operator's passes against a real API server, from apply to pods, through its death and others' leftovers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tessera_api.training_run_status import TrainingRunStatus
from tessera_operator.act import InTheWay
from tessera_operator.cluster import ClusterError, core, ours
from tessera_operator.core.view import Answer, Machine
from tessera_operator.observe import machines, seconds
from tessera_operator.reconcile import BUILD, RUN
from tessera_operator.wakes import Key
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator_world import RUN as A_RUN
from tests.unit.test_operator_builds import BUILD as A_BUILD
from tests.wire.operator_passes import (
    BUILT,
    Dying,
    apply,
    finish_build,
    names,
    operator,
    passes,
    patch_status,
    run,
    shown,
)


def test_a_build_and_a_run_go_their_way_from_apply_to_pods(plane: ControlPlane) -> None:
    async def story() -> None:
        apply(plane, "way", A_BUILD, A_RUN)
        build, gpt = Key(BUILD, "way", "stdlib"), Key(RUN, "way", "gpt")
        async with operator(plane) as (reconciler, cluster, _):
            woken, waited = list[Key](), list[float]()
            reconciler.wake, reconciler.on_begin = woken.append, waited.append

            await reconciler.work(gpt)
            assert shown(plane, "way", "trainingrun", "gpt")["status"]["phase"] == "Pending"
            await reconciler.work(build)
            assert shown(plane, "way", "datasetbuild", "stdlib")["status"]["phase"] == "Pending"
            finish_build(plane, "way")
            await reconciler.work(build)
            status = shown(plane, "way", "datasetbuild", "stdlib")["status"]
            assert (status["phase"], status["documents"], status["manifestSha256"]) == ("Succeeded", 63, "0" * 64)
            assert woken[-1] == gpt

            assert await reconciler.work(gpt) == 0.0  # key, services, run.json: pods come with the next pass
            assert [0 <= seconds < 100 for seconds in waited] == [True]
            await reconciler.work(gpt)
            pods = await cluster.list(core("way", "pods"), "tessera.dev/run=gpt")
            assert names(pods) == ["gpt-c0-0", "gpt-c1-0", "gpt-n0-0", "gpt-n1-0", "gpt-n2-0"]
            uid = shown(plane, "way", "trainingrun", "gpt")["metadata"]["uid"]
            assert shown(plane, "way", "secret", f"gpt-key-{uid[:8]}-1")["immutable"] is True
            services = await cluster.list(core("way", "services"), "tessera.dev/run=gpt")
            assert names(services) == ["gpt-coordinator-c0", "gpt-coordinator-c1", "gpt-nodes"]
            before = dict(cluster.requests)
            await reconciler.work(gpt)
            written = {key: n for key, n in cluster.requests.items() if key[0] != "GET" and n > before.get(key, 0)}
            assert set(written) <= {("PATCH", "trainingruns", 200)}

    run(story())


def test_a_run_that_misses_another_looks_again_as_soon_as_that_is_created(plane: ControlPlane) -> None:
    async def story() -> None:
        chained = {**A_RUN, "metadata": {"name": "next"}, "spec": {**A_RUN["spec"], "model": {"from": {"run": "gpt"}}}}
        apply(plane, "chained", A_BUILD, chained)
        patch_status(plane, "chained", "datasetbuild", "stdlib", BUILT)
        async with operator(plane) as (reconciler, _, _):
            woken: list[Key] = []
            reconciler.wake = woken.append
            following = Key(RUN, "chained", "next")

            await reconciler.work(following)
            assert reason(plane, "next") == "OriginMissing"
            apply(plane, "chained", A_RUN)
            await reconciler.work(Key(RUN, "chained", "gpt"))
            assert following in woken
            await reconciler.work(following)
            assert reason(plane, "next") == "OriginNotReady"

    def reason(plane: ControlPlane, name: str) -> str:
        states = shown(plane, "chained", "trainingrun", name)["status"]["conditions"]
        return next(str(state["reason"]) for state in states if state["type"] == "Prepared")

    run(story())


@pytest.mark.parametrize("writes", range(13))
def test_an_operator_may_die_at_every_write_and_the_next_one_makes_it_good(plane: ControlPlane, writes: int) -> None:
    async def story() -> None:
        namespace = f"dying-{writes}"
        apply(plane, namespace, A_BUILD, A_RUN)
        patch_status(plane, namespace, "datasetbuild", "stdlib", BUILT)
        gpt = Key(RUN, namespace, "gpt")
        async with operator(plane, Dying) as (reconciler, cluster, _):
            assert isinstance(cluster, Dying)
            cluster.left = writes
            with pytest.raises(ClusterError, match="died here"):
                await passes(reconciler, gpt, 4)
        async with operator(plane) as (reconciler, cluster, _):
            while await reconciler.work(gpt) == 0.0:
                pass
            pods = await cluster.list(core(namespace, "pods"), "tessera.dev/run=gpt")
            assert names(pods) == ["gpt-c0-0", "gpt-c1-0", "gpt-n0-0", "gpt-n1-0", "gpt-n2-0"]
            services = await cluster.list(core(namespace, "services"), "tessera.dev/run=gpt")
            assert names(services) == ["gpt-coordinator-c0", "gpt-coordinator-c1", "gpt-nodes"]
            assert shown(plane, namespace, "trainingrun", "gpt")["status"]["phase"] == "Starting"

    run(story())


def test_a_lost_node_is_counted_in_the_status_before_its_pod_goes(plane: ControlPlane) -> None:
    async def story() -> None:
        apply(plane, "lost", A_BUILD, A_RUN)
        build, gpt = Key(BUILD, "lost", "stdlib"), Key(RUN, "lost", "gpt")
        async with operator(plane) as (reconciler, cluster, hearing):
            await reconciler.work(build)
            finish_build(plane, "lost")
            for key in (build, gpt, gpt):
                await reconciler.work(key)
            patch_status(plane, "lost", "pod", "gpt-n1-0", {"phase": "Running"})
            counted = frozenset({"gpt-n0-0", "gpt-n2-0"})
            status = shown(plane, "lost", "trainingrun", "gpt")["status"]
            hearing.said = Answer(
                TrainingRunStatus.model_validate(status), counted, missing=frozenset({"gpt-n1-0"}), closed=None, age=0.5
            )

            await reconciler.work(gpt)

            status = shown(plane, "lost", "trainingrun", "gpt")["status"]
            assert [(entry["slot"], entry["attempt"]) for entry in status["attempts"]] == [("n1", 1)]
            pods = await cluster.list(core("lost", "pods"), "tessera.dev/run=gpt")
            assert "gpt-n1-1" in names(pods)

    run(story())


def test_a_resource_that_is_gone_or_is_another_of_its_name_gets_nothing(plane: ControlPlane) -> None:
    async def story() -> None:
        apply(plane, "gone", A_BUILD)
        async with operator(plane) as (reconciler, cluster, _):
            assert await reconciler.work(Key(RUN, "gone", "nobody")) is None
            await reconciler.work(Key(BUILD, "gone", "stdlib"))
            first = await cluster.get(ours("gone", BUILD, "stdlib"))
            plane.kubectl("delete", "datasetbuild", "stdlib", "--namespace", "gone")
            apply(plane, "gone", A_BUILD)
            await reconciler.work(Key(BUILD, "gone", "stdlib"))

            # The old one's Job is still there, and is not taken for the new one's.
            assert first is not None
            status = shown(plane, "gone", "datasetbuild", "stdlib")["status"]
            assert status["phase"] == "Pending"

    run(story())


def a_dark_pod(plane: ControlPlane, namespace: str, run_name: str, *more: dict[str, Any]) -> None:
    """Of a run that is gone, on a node that is lost: it is being deleted, and no kubelet confirms its end."""
    label = {"tessera.dev/run": run_name, "tessera.dev/slot": "n0", "tessera.dev/attempt": "0"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "dark"}}
    assert plane.apply(node).returncode == 0
    pod = {"name": f"{run_name}-n0-0", "labels": label, "finalizers": []}
    spec = {"nodeName": "dark", "containers": [{"name": "node", "image": "trainer:1"}]}
    apply(plane, namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": pod, "spec": spec}, *more)
    plane.kubectl("delete", "pod", f"{run_name}-n0-0", "--namespace", namespace, "--wait=false")


def test_a_dark_pod_of_an_older_run_is_not_in_the_way_of_the_next_one_of_its_name(plane: ControlPlane) -> None:
    async def story() -> None:
        a_dark_pod(plane, "heir", "gpt", A_BUILD, A_RUN)
        patch_status(plane, "heir", "datasetbuild", "stdlib", BUILT)
        async with operator(plane) as (reconciler, cluster, _):
            await passes(reconciler, Key(RUN, "heir", "gpt"), 3)

            pods = await cluster.list(core("heir", "pods"))
        owners = {pod["metadata"]["name"]: pod["metadata"].get("ownerReferences") for pod in pods}
        assert all(owners.values())
        assert "gpt-n0-0" in owners

    run(story())


def test_pods_of_a_run_that_is_gone_leave_the_api_when_their_node_is_lost(plane: ControlPlane) -> None:
    async def story() -> None:
        a_dark_pod(plane, "late", "late")
        async with operator(plane) as (reconciler, cluster, _):
            assert names(await cluster.list(core("late", "pods"))) == ["late-n0-0"]  # no kubelet confirms its end

            assert await reconciler.work(Key(RUN, "late", "late")) is not None

            assert await cluster.list(core("late", "pods")) == []
            assert await reconciler.work(Key(RUN, "late", "late")) is None

    run(story())


def test_a_run_waits_until_what_an_older_one_of_its_name_had_is_gone(plane: ControlPlane) -> None:
    async def story() -> None:
        apply(plane, "again", A_BUILD, A_RUN)
        patch_status(plane, "again", "datasetbuild", "stdlib", BUILT)
        gpt = Key(RUN, "again", "gpt")
        async with operator(plane) as (reconciler, cluster, _):
            await passes(reconciler, gpt, 2)
            plane.kubectl("delete", "trainingrun", "gpt", "--namespace", "again")
            apply(plane, "again", A_RUN)

            with pytest.raises(InTheWay, match="services gpt-nodes is still that of an older run"):
                await reconciler.work(gpt)

            for name in (
                "service/gpt-nodes",
                "service/gpt-coordinator-c0",
                "service/gpt-coordinator-c1",
                "configmap/gpt-start-1",
            ):
                plane.kubectl("delete", name, "--namespace", "again")  # as garbage collection does
            plane.kubectl("delete", "pods", "--all", "--namespace", "again", "--grace-period=0", "--force")
            await passes(reconciler, gpt, 2)
            uid = shown(plane, "again", "trainingrun", "gpt")["metadata"]["uid"]
            pods = await cluster.list(core("again", "pods"), "tessera.dev/run=gpt")
            assert {pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods} == {uid}
            assert len(pods) == 5

    run(story())


def test_a_node_is_late_only_against_others_that_could_report(plane: ControlPlane) -> None:
    async def story() -> None:
        plane.kubectl("create", "namespace", "kube-node-lease")

        def report(name: str, minute: str) -> None:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": f"2026-11-26T12:{minute}.000000Z"}
            place = {"name": name, "namespace": "kube-node-lease"}
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": place, "spec": spec}
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            for document in (node, lease):
                assert plane.apply(document).returncode == 0
            done = plane.kubectl(
                "patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": ready})
            )
            assert done.returncode == 0, done.stderr

        async with operator(plane) as (_, cluster, _):
            report("left", "00:00")
            report("right", "00:08")
            known = await machines(cluster, ["left", "right", "nowhere"])
            assert [known["left"], known["right"]] == [
                Machine(True, 8.0, seconds("2026-11-26T12:00:00Z")),
                Machine(True, 0.0, seconds("2026-11-26T12:00:08Z")),
            ]  # however long ago that is: the API server may have been away since
            assert known["nowhere"] is None
            report("right", "00:25")
            known = await machines(cluster, ["left", "right"])
            assert [machine.suspect for machine in known.values() if machine] == [True, False]

    run(story())
