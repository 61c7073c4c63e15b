"""Whose runs are left alone, and what becomes of a run that has ended or whose namespace goes, on a real API server."""

from __future__ import annotations

from tessera_operator.cluster import core, ours
from tessera_operator.reconcile import RUN
from tessera_operator.wakes import Key
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator_world import RUN as A_RUN
from tests.unit.test_operator_builds import BUILD as A_BUILD
from tests.wire.operator_passes import BUILT, apply, bind, names, operator, passes, patch_status, run, shown


def test_a_run_of_another_controller_is_left_alone(plane: ControlPlane) -> None:
    async def story() -> None:
        other = {**A_RUN, "spec": {**A_RUN["spec"], "managedBy": "a.example/controller"}}
        apply(plane, "theirs", A_BUILD, other)
        patch_status(plane, "theirs", "datasetbuild", "stdlib", BUILT)
        async with operator(plane) as (reconciler, cluster, _):
            assert await reconciler.work(Key(RUN, "theirs", "gpt")) is None
            assert await cluster.list(core("theirs", "pods")) == []
        assert "status" not in shown(plane, "theirs", "trainingrun", "gpt")

    run(story())


def test_a_run_is_deleted_when_its_time_after_the_end_is_over(plane: ControlPlane) -> None:
    async def story() -> None:
        apply(plane, "after", A_BUILD, {**A_RUN, "spec": {**A_RUN["spec"], "ttlSecondsAfterFinished": 60}})
        patch_status(plane, "after", "datasetbuild", "stdlib", BUILT)
        key = Key(RUN, "after", "gpt")
        async with operator(plane) as (reconciler, cluster, _):
            await passes(reconciler, key, 4)
            ended = {"type": "Succeeded", "status": "True", "reason": "Complete", "message": "done"}
            for since, gone in (("2999-01-01T00:00:00Z", False), ("2026-01-01T00:00:00Z", True)):
                status = {"conditions": [{**ended, "lastTransitionTime": since}]}
                patch_status(plane, "after", "trainingrun", "gpt", status)
                await reconciler.work(key)
                assert (await cluster.get(ours("after", RUN, "gpt")) is None) is gone

    run(story())


def test_in_a_namespace_that_is_being_deleted_nothing_is_made_and_a_pod_on_a_lost_node_is_let_go(
    plane: ControlPlane,
) -> None:
    async def story() -> None:
        apply(plane, "leaving", A_BUILD, A_RUN)
        patch_status(plane, "leaving", "datasetbuild", "stdlib", BUILT)
        key = Key(RUN, "leaving", "gpt")
        async with operator(plane) as (reconciler, cluster, _):
            await passes(reconciler, key, 4)
            bind(plane, "leaving", "gpt-n0-0", "nowhere")
            plane.kubectl("delete", "pod", "gpt-n0-0", "--namespace", "leaving", "--wait=false")
            plane.kubectl("delete", "namespace", "leaving", "--wait=false")  # no controller is here to empty it
            await reconciler.work(key)
            assert names(await cluster.list(core("leaving", "pods"))) == [
                "gpt-c0-0",
                "gpt-c1-0",
                "gpt-n1-0",
                "gpt-n2-0",
            ]

    run(story())
