"""Later starts of a run, and its keys, as the operator makes them on a real API server."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from tessera_api.drill import Drill, Fault
from tessera_api.orders import Place, Places, Warnings
from tessera_api.training_run_status import ShownDrill, TrainingRunStatus
from tessera_operator.cluster import ClusterError, core
from tessera_operator.core.view import Answer
from tessera_operator.profiles import Profile
from tessera_operator.reconcile import RUN
from tessera_operator.wakes import Key
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator_world import RUN as A_RUN
from tests.unit.test_operator_builds import BUILD as A_BUILD
from tests.wire.operator_passes import (
    BUILT,
    PATCH_SPEC,
    SETTINGS,
    Dying,
    add_machine,
    apply,
    bind,
    names,
    operator,
    passes,
    patch_status,
    run,
    shown,
)


def keys_of(plane: ControlPlane, namespace: str) -> list[str]:
    """The numbers of a run's keys."""
    found = json.loads(plane.kubectl("get", "secrets", "--namespace", namespace, "-o", "json").stdout)["items"]
    return [name.rpartition("-")[2] for name in names(found)]


@pytest.mark.parametrize("writes", range(3))
def test_an_annotation_brings_a_run_that_lives_another_key_whenever_the_operator_dies(
    plane: ControlPlane, writes: int
) -> None:
    place = f"rotate-{writes}"

    async def story() -> None:
        apply(plane, place, A_BUILD, A_RUN)
        patch_status(plane, place, "datasetbuild", "stdlib", BUILT)
        gpt = Key(RUN, place, "gpt")
        async with operator(plane) as (reconciler, cluster, _):
            await passes(reconciler, gpt, 3)
            pods = names(await cluster.list(core(place, "pods")))
        assert shown(plane, place, "trainingrun", "gpt")["status"]["key"]["number"] == 1
        asked = ("annotate", "trainingrun", "gpt", "tessera.dev/rotate-key=leaked", "--namespace", place)
        assert plane.kubectl(*asked).returncode == 0
        async with operator(plane, Dying) as (reconciler, dying, _):
            assert isinstance(dying, Dying)
            dying.left = writes
            with suppress(ClusterError):
                await reconciler.work(gpt)

        async with operator(plane) as (reconciler, cluster, _):
            await passes(reconciler, gpt, 2)
            assert names(await cluster.list(core(place, "pods"))) == pods
        key = shown(plane, place, "trainingrun", "gpt")["status"]["key"]
        assert (key["number"], key["request"], keys_of(plane, place)) == (2, "leaked", ["1", "2"])

    run(story())


def test_a_run_is_suspended_and_goes_on_with_other_nodes_as_another_start(plane: ControlPlane) -> None:
    async def story() -> None:
        apply(plane, "sleep", A_BUILD, A_RUN)
        patch_status(plane, "sleep", "datasetbuild", "stdlib", BUILT)
        gpt = Key(RUN, "sleep", "gpt")
        async with operator(plane) as (reconciler, cluster, hearing):
            await passes(reconciler, gpt, 2)
            spec = {"suspend": True, "nodes": {"count": 1, "spares": 0}}
            assert plane.kubectl(*PATCH_SPEC, "sleep", "-p", json.dumps({"spec": spec})).returncode == 0
            hearing.said = Answer(TrainingRunStatus(), frozenset(), frozenset(), closed="stopped at step 4", age=0.5)
            await reconciler.work(gpt)
            # No kubelet is here to end them: this one does.
            plane.kubectl("delete", "pods", "--all", "--namespace", "sleep", "--grace-period=0", "--force")
            await passes(reconciler, gpt, 2)
            status = shown(plane, "sleep", "trainingrun", "gpt")["status"]
            assert (status["phase"], status["start"]) == ("Suspended", 2)
            assert await cluster.list(core("sleep", "pods")) == []

            awake = json.dumps({"spec": {"suspend": False}})
            assert plane.kubectl(*PATCH_SPEC, "sleep", "-p", awake).returncode == 0
            hearing.said = None
            await passes(reconciler, gpt, 2)
            assert names(await cluster.list(core("sleep", "pods"))) == ["gpt-c0-1", "gpt-c1-1", "gpt-n0-1"]
            started = json.loads(shown(plane, "sleep", "configmap", "gpt-start-2")["data"]["run.json"])
            assert (started["start"], started["run"]["spec"]["nodes"]["count"]) == (2, 1)
            assert started["first_key"] == 2
            assert keys_of(plane, "sleep") == ["1", "2"]
            selector = shown(plane, "sleep", "service", "gpt-coordinator-c0")["spec"]["selector"]
            assert selector["tessera.dev/attempt"] == "1"

    run(story())


def test_the_coordinator_is_told_in_which_rack_each_pod_is(plane: ControlPlane) -> None:
    racked = SETTINGS.model_copy(update={"profiles": {"cpu": Profile(topology_label="example.com/rack")}})

    async def story() -> None:
        for machine, labels in (("rack-a1", {"example.com/rack": "a"}), ("nowhere", {})):
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": machine, "labels": labels}}
            assert plane.apply(node).returncode == 0
        apply(plane, "racks", A_BUILD, A_RUN)
        patch_status(plane, "racks", "datasetbuild", "stdlib", BUILT)
        gpt = Key(RUN, "racks", "gpt")
        async with operator(plane, settings=racked) as (reconciler, _, hearing):
            await passes(reconciler, gpt, 2)
            assert hearing.ordered["places"] == Places(places=())
            bind(plane, "racks", "gpt-n0-0", "rack-a1")
            bind(plane, "racks", "gpt-n2-0", "nowhere")
            await reconciler.work(gpt)

            there = (Place(node="gpt-n0-0", at="a"), Place(node="gpt-n2-0", at=""))
            assert hearing.ordered["places"] == Places(places=there)
        started = json.loads(shown(plane, "racks", "configmap", "gpt-start-1")["data"]["run.json"])
        assert started["ordered_by"] == "example.com/rack"

    run(story())


def test_the_coordinator_is_told_of_a_machine_that_is_about_to_end_and_when_it_is_not_any_more(
    plane: ControlPlane,
) -> None:
    async def story() -> None:
        add_machine(plane, "spot-1")
        apply(plane, "spot", A_BUILD, A_RUN)
        patch_status(plane, "spot", "datasetbuild", "stdlib", BUILT)
        gpt, woken = Key(RUN, "spot", "gpt"), list[Key]()
        async with operator(plane) as (reconciler, _, hearing):
            reconciler.wake = woken.append
            await passes(reconciler, gpt, 2)
            bind(plane, "spot", "gpt-n0-0", "spot-1")
            await reconciler.work(gpt)
            assert hearing.ordered["warnings"] == Warnings(nodes=())
            taint = ("taint", "node", "spot-1", "aws-node-termination-handler/spot-itn=x:PreferNoSchedule")
            assert plane.kubectl(*taint).returncode == 0
            for noteworthy in (True, True):
                reconciler.machine("spot-1", noteworthy)
            assert woken == [gpt]
            await reconciler.work(gpt)
            (told,) = hearing.ordered["warnings"].nodes
            assert (told.node, told.within_seconds, told.sick) == ("gpt-n0-0", 120, False)

            assert plane.kubectl("taint", "node", "spot-1", "aws-node-termination-handler/spot-itn-").returncode == 0
            await reconciler.work(gpt)
            assert hearing.ordered["warnings"] == Warnings(nodes=())

    run(story())
    plane.kubectl("delete", "lease", "spot-1", "--namespace", "kube-node-lease")  # others look at all leases


def test_an_annotation_orders_a_drill(plane: ControlPlane) -> None:
    async def story() -> None:
        apply(plane, "drill", A_BUILD, A_RUN)
        patch_status(plane, "drill", "datasetbuild", "stdlib", BUILT)
        gpt = Key(RUN, "drill", "gpt")
        async with operator(plane) as (reconciler, _, hearing):
            await passes(reconciler, gpt, 3)
            assert "drill" not in hearing.ordered
            asked = ("annotate", "trainingrun", "gpt", "tessera.dev/drill=try-1 node-stop gpt-n1-0 7", "--namespace")
            assert plane.kubectl(*asked, "drill").returncode == 0
            await reconciler.work(gpt)

            wanted = Drill(identity="try-1", fault=Fault.NODE_STOP, node="gpt-n1-0", seconds=7)
            assert hearing.ordered["drill"] == wanted

    run(story())


def test_a_drill_keeps_the_api_server_from_passes_over_the_run_that_asked_and_from_no_other(
    plane: ControlPlane,
) -> None:
    async def story() -> None:
        for place in ("away", "near"):
            apply(plane, place, A_BUILD, A_RUN)
            patch_status(plane, place, "datasetbuild", "stdlib", BUILT)
        gpt, other = Key(RUN, "away", "gpt"), Key(RUN, "near", "gpt")
        async with operator(plane) as (reconciler, cluster, hearing):
            await passes(reconciler, gpt, 2)
            await passes(reconciler, other, 1)
            asked = ("annotate", "trainingrun", "gpt", "tessera.dev/drill=try-1 api-away 60", "--namespace", "away")
            assert plane.kubectl(*asked).returncode == 0
            await reconciler.work(gpt)
            begun = ShownDrill(identity="try-1", fault=Fault.API_AWAY)
            hearing.said = Answer(TrainingRunStatus(drills=(begun,)), frozenset(), frozenset(), None, 0.0)
            await reconciler.work(gpt)

            before = sum(cluster.requests.values())
            with pytest.raises(ClusterError, match="a drill keeps the API server away"):
                await reconciler.work(gpt)
            assert sum(cluster.requests.values()) == before + 1
            await reconciler.work(other)

    run(story())
