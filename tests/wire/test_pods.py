"""The pods that the operator makes, in a namespace that enforces Kubernetes' restricted level."""

from __future__ import annotations

from typing import Any

import pytest

from tessera_api.dataset_build import DatasetBuild
from tessera_operator.manifests.build import build_job
from tessera_operator.manifests.network import network_policy
from tessera_operator.manifests.run import Owner, Place, coordinator_pod, worker_pod
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator_world import a_run, a_start
from tests.unit.test_operator_builds import BUILD
from tests.unit.test_operator_manifests import GPU, SETTINGS
from tests.unit.test_operator_pod_template import TEMPLATE

OWNER = Owner("restricted", "gpt", "00000000-0000-0000-0000-000000000001")
FULL = a_start(a_run(podTemplate=TEMPLATE))
BUILDER = build_job(DatasetBuild.parse(BUILD), "restricted", OWNER.uid, SETTINGS)["spec"]["template"]


@pytest.fixture(scope="module")
def restricted(plane: ControlPlane) -> str:
    """A namespace that takes restricted pods alone; the service account that the full template names."""
    plane.kubectl("create", "namespace", "restricted")
    plane.kubectl("label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted")
    plane.kubectl("create", "serviceaccount", "trainer", "--namespace", "restricted")
    plane.kubectl("create", "serviceaccount", "default", "--namespace", "restricted")
    return "restricted"


@pytest.mark.parametrize(
    "pod",
    [
        worker_pod(OWNER, a_start(), SETTINGS, GPU, Place("n0", 0)),
        worker_pod(OWNER, FULL, SETTINGS, GPU, Place("n0", 1, ("host-9",))),
        coordinator_pod(OWNER, FULL, SETTINGS, "c0", 0),
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "builder"}, "spec": BUILDER["spec"]},
    ],
    ids=["node", "node with everything that a run may ask for", "coordinator", "builder"],
)
def test_a_namespace_of_the_restricted_level_takes_every_pod(
    plane: ControlPlane, restricted: str, pod: dict[str, Any]
) -> None:
    metadata = {name: value for name, value in pod["metadata"].items() if name != "ownerReferences"}
    done = plane.apply({**pod, "metadata": {**metadata, "namespace": restricted}})

    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_a_namespace_of_the_restricted_level_refuses_a_pod_that_is_not(plane: ControlPlane, restricted: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose", "namespace": restricted}}

    done = plane.apply({**pod, "spec": {"containers": [{"name": "loose", "image": "loose:1"}]}})

    assert "violates PodSecurity" in done.stderr


def test_the_server_takes_a_runs_network_policy(plane: ControlPlane, restricted: str) -> None:
    done = plane.apply(network_policy(OWNER, "tessera-system") | {"metadata": {"name": "gpt", "namespace": restricted}})

    assert done.returncode == 0, done.stderr
