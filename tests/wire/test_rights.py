"""The operator works with the rights that the chart gives it, and has no others: in the whole cluster, or in the
namespaces that it is told, by Roles alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from kubernetes.aio import client, config

from tessera_operator.cluster import Cluster, ClusterError, core, node, ours
from tessera_operator.core.view import Machine
from tessera_operator.observe import machines
from tessera_operator.reconcile import BUILD, RUN, Reconciler
from tessera_operator.wakes import Key
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator_world import RUN as A_RUN
from tests.unit.test_operator_builds import BUILD as A_BUILD
from tests.wire.operator_passes import BUILT, SECRET, SETTINGS, Hearing, apply, patch_status, shown
from tests.wire.test_chart import helm, rendered

__all__ = ["helm"]
LEASE = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "host-1", "namespace": "kube-node-lease"},
    "spec": {"renewTime": "2026-11-27T08:00:00.000000Z"},
}


def install(plane: ControlPlane, helm: Path, release: str, *sets: str) -> str:
    """A kubeconfig of the operator's own account, with the rights that the chart renders."""
    namespace = f"{release}-system"
    plane.kubectl("create", "namespace", namespace)
    for other in (f"{release}-team", "kube-node-lease"):
        plane.kubectl("create", "namespace", other)
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    for document in rendered(helm, "crds.enabled=false", *sets):
        if document["kind"] in kinds:
            text = json.dumps(document).replace("tessera-system", namespace).replace("tessera-operator", release)
            done = plane.kubectl("apply", "--server-side", "-f", "-", stdin=text)
            assert done.returncode == 0, done.stderr
    token = plane.kubectl("create", "token", release, "--namespace", namespace).stdout.strip()
    assert token
    settings = yaml.safe_load(plane.kubeconfig.read_text(encoding="utf-8"))
    settings["users"][0]["user"] = {"token": token}
    file = plane.kubeconfig.parent / f"{release}.kubeconfig"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(file)


@asynccontextmanager
async def operator(kubeconfig: str) -> AsyncIterator[tuple[Reconciler, Cluster]]:
    await config.load_kube_config(kubeconfig)
    cluster = Cluster(client.ApiClient())
    try:
        yield Reconciler(cluster, SETTINGS, SECRET, Hearing(lambda uid: None)), cluster
    finally:
        await cluster.close()


async def begin(plane: ControlPlane, namespace: str, kubeconfig: str) -> None:
    """A build and a run, from apply to pods, with these rights."""
    apply(plane, namespace, A_BUILD, A_RUN)
    async with operator(kubeconfig) as (reconciler, _):
        await reconciler.work(Key(BUILD, namespace, "stdlib"))
        patch_status(plane, namespace, "datasetbuild", "stdlib", BUILT)
        for _ in range(4):
            await reconciler.work(Key(RUN, namespace, "gpt"))


async def forbidden(cluster: Cluster, path: str) -> bool:
    try:
        await cluster.get(path)
    except ClusterError as error:
        return error.status == 403
    return False


@pytest.mark.parametrize(
    ("release", "sets"),
    [("everywhere", ()), ("somewhere", ("operator.namespaces={somewhere-team}",))],
    ids=["the whole cluster", "a namespace of its own"],
)
def test_a_build_and_a_run_begin_with_the_rights_of_the_chart(
    plane: ControlPlane, helm: Path, release: str, sets: tuple[str, ...]
) -> None:
    kubeconfig, namespace = install(plane, helm, release, *sets), f"{release}-team"

    asyncio.run(begin(plane, namespace, kubeconfig))

    text = plane.kubectl("get", "pods", "--namespace", namespace, "-o", "json").stdout
    pods = [pod["metadata"]["name"] for pod in json.loads(text)["items"]]
    assert sorted(pods) == ["gpt-c0-0", "gpt-c1-0", "gpt-n0-0", "gpt-n1-0", "gpt-n2-0"]
    assert shown(plane, namespace, "trainingrun", "gpt")["status"]["phase"] == "Starting"


def test_in_namespaces_of_its_own_it_sees_nothing_elsewhere_and_knows_nodes_by_their_leases(
    plane: ControlPlane, helm: Path
) -> None:
    kubeconfig = install(plane, helm, "narrow", "operator.namespaces={narrow-team}")
    done = plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(LEASE))
    assert done.returncode == 0, done.stderr

    async def story() -> None:
        async with operator(kubeconfig) as (_, cluster):
            assert await cluster.get(ours("narrow-team", RUN, "none")) is None
            for path in (ours("default", RUN, "none"), core("default", "pods", "none"), node("host-1")):
                assert await forbidden(cluster, path), path
            assert await forbidden(cluster, core("narrow-team", "secrets", "gpt-key"))
            found = await machines(cluster, ("host-1", "host-2"))
            assert found == {"host-1": Machine(True, 0.0, 1795766400.0), "host-2": None}

    asyncio.run(story())
    plane.kubectl("delete", "lease", "host-1", "--namespace", "kube-node-lease")  # others look at all leases
