"""An operator's passes against a real API server; what kubelet and the Job controller would do is done by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio import client, config

from tessera_api.drill import Drill
from tessera_api.keys import Keys
from tessera_api.orders import Places, Size, Warnings
from tessera_operator.cluster import Cluster, ClusterError
from tessera_operator.coordinators import Coordinators
from tessera_operator.core.view import Answer
from tessera_operator.profiles import Settings
from tessera_operator.reconcile import Reconciler
from tessera_operator.wakes import Key
from tests.cluster.control_plane import ControlPlane
from tests.unit.test_operator_builds import RESULT

SETTINGS = Settings(trainer_image="trainer:1", operator_image="operator:1")
SECRET = b"s" * 32
BUILT = {
    "conditions": [{"type": "Succeeded", "status": "True", "reason": "Published", "message": "done"}],
    "manifest": RESULT["manifest"],
    "manifestSha256": RESULT["sha256"],
    "tokenizerSha256": RESULT["tokenizer_sha256"],
    "fingerprint": RESULT["fingerprint"],
    "vocabulary": RESULT["vocabulary"],
    "tokens": RESULT["tokens"],
}


PATCH_SPEC = ("patch", "trainingrun", "gpt", "--type=merge", "--namespace")


class Hearing(Coordinators):
    """Streams that a test answers; no coordinator runs here."""

    said: Answer | None = None

    def __init__(self, wake: Callable[[str], None]) -> None:
        super().__init__(wake)
        self.ordered: dict[str, Size | Places | Warnings | Drill] = {}
        """The newest order of each kind."""

    def order(self, uid: str, order: Size | Places | Warnings | Drill) -> None:
        """Kept for the test."""
        self.ordered[order.kind] = order

    def watch(self, uid: str, addresses: str, keys: tuple[Keys, ...], may_stop: bool) -> None:
        """No stream."""

    def answer(self, uid: str) -> Answer | None:
        """What the test says."""
        return self.said


class Dying(Cluster):
    """An operator that dies at a write: after `left` of them that succeed."""

    left = 1

    async def _call(self, verb: str, path: str, *more: Any, **words: Any) -> dict[str, Any]:
        if verb != "GET":
            if self.left == 0:
                raise ClusterError(0, "the operator died here")
            self.left -= 1
        return await super()._call(verb, path, *more, **words)


@asynccontextmanager
async def operator(
    plane: ControlPlane, kind: type[Cluster] = Cluster, settings: Settings | None = None
) -> AsyncIterator[tuple[Reconciler, Cluster, Hearing]]:
    await config.load_kube_config(str(plane.kubeconfig))
    cluster, hearing = kind(client.ApiClient()), Hearing(lambda uid: None)
    try:
        yield Reconciler(cluster, settings or SETTINGS, SECRET, hearing), cluster, hearing
    finally:
        await cluster.close()


def run(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(100):
            await story

    asyncio.run(limited())


def apply(plane: ControlPlane, namespace: str, *documents: dict[str, Any]) -> None:
    plane.kubectl("create", "namespace", namespace)
    for document in documents:
        placed = {**document, "metadata": {**document["metadata"], "namespace": namespace}}
        done = plane.apply(placed)
        assert done.returncode == 0, done.stderr


def patch_status(plane: ControlPlane, namespace: str, kind: str, name: str, status: dict[str, Any]) -> None:
    change = json.dumps({"status": status})
    where = ("--namespace", namespace, kind, name, "--subresource=status", "--type=merge")
    done = plane.kubectl("patch", *where, "-p", change)
    assert done.returncode == 0, done.stderr


def shown(plane: ControlPlane, namespace: str, kind: str, name: str) -> dict[str, Any]:
    text = plane.kubectl("get", kind, name, "--namespace", namespace, "-o", "json").stdout
    found: dict[str, Any] = json.loads(text)
    return found


def names(documents: list[dict[str, Any]]) -> list[str]:
    return sorted(document["metadata"]["name"] for document in documents)


async def passes(reconciler: Reconciler, key: Key, count: int) -> None:
    for _ in range(count):
        await reconciler.work(key)


def finish_build(plane: ControlPlane, namespace: str) -> None:
    """As the Job controller and a kubelet do: a pod of the Job, which ends with the build's result."""
    job = shown(plane, namespace, "job", "stdlib-build")
    template = job["spec"]["template"]
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": "stdlib-build", "uid": job["metadata"]["uid"]}
    metadata = {"name": "stdlib-build-x", "labels": template["metadata"]["labels"], "ownerReferences": [reference]}
    apply(plane, namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    ended = {"exitCode": 0, "message": json.dumps(RESULT), "finishedAt": "2026-11-26T12:00:00Z"}
    container = {"name": "builder", "image": "trainer:1", "imageID": "x", "ready": False, "restartCount": 0}
    statuses = [{**container, "state": {"terminated": ended}}]
    patch_status(plane, namespace, "pod", "stdlib-build-x", {"phase": "Succeeded", "containerStatuses": statuses})


def add_machine(plane: ControlPlane, name: str) -> None:
    """A node that is well, as its kubelet says."""
    assert plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).returncode == 0
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
    patch_status(plane, "default", "node", name, {"conditions": [ready]})
    renewed = {"holderIdentity": name, "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    metadata = {"name": name, "namespace": "kube-node-lease"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-node-lease"}}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": renewed}
    for document in (namespace, lease):
        assert plane.apply(document).returncode == 0


def bind(plane: ControlPlane, namespace: str, pod: str, node: str) -> None:
    """As the scheduler does."""
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    document = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod, "namespace": namespace},
        "target": target,
    }
    done = plane.kubectl(
        *("create", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}/binding", "-f", "-"),
        stdin=json.dumps(document),
    )
    assert done.returncode == 0, done.stderr
