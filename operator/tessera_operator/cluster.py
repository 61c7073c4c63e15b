"""The cluster: the one user of the Kubernetes client. Speaks raw JSON; maps errors once.

What must stay true: every request has a limit; "already exists" and "is gone" are answers, not errors; a delete names
the uid that it means.
"""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from tessera_api.drill import Fault
from tessera_api.resource import GROUP, VERSION

MANAGER = "tessera-operator"
REQUEST_SECONDS = 15.0
PAGE = 500
FORBIDDEN = 403
NODE_LEASES = "kube-node-lease"
"""The namespace of the leases that kubelets renew."""

KUEUE = "kueue.x-k8s.io/v1beta2"
PRIORITIES = "scheduling.k8s.io/v1"
GROUPS = {
    "scheduling.volcano.sh/v1beta1": "podgroups",
    "scheduling.x-k8s.io/v1alpha1": "podgroups",
    "scheduling.k8s.io/v1alpha1": "workloads",
}
"""Where the pod groups of schedulers are kept, by their kind's version."""

Json = dict[str, Any]

SLOW_SECONDS = 2.0
drilled: ContextVar[Fault | None] = ContextVar("drilled", default=None)
"""The drill that the requests of this task suffer: answers that come `SLOW_SECONDS` late, or none."""


class ClusterError(Exception):
    """The API server did not take a request; `status` is HTTP's, 0 when there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class NamespaceEnding(ClusterError):
    """The namespace is being deleted: nothing new is taken there."""


class Cluster:
    """See the module."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.requests: dict[tuple[str, str, int], int] = {}
        """How many there were, by verb, resource and answer."""

    @classmethod
    async def connect(cls) -> Cluster:
        """As the pod's own account, or as a kubeconfig says."""
        try:
            config.load_incluster_config()
        except config.ConfigException:
            await config.load_kube_config()
        return cls(client.ApiClient())

    async def close(self) -> None:
        """No more requests."""
        await self._api.close()

    async def get(self, path: str) -> Json | None:
        """The object at a path such as /api/v1/namespaces/N/pods/P; None when there is none."""
        try:
            return await self._call("GET", path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, path: str, selector: str = "") -> list[Json]:
        """Everything at a path, page by page; as it is now, not as a cache had it."""
        found: list[Json] = []
        query: dict[str, str] = {"limit": str(PAGE)}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = await self._call("GET", path, query)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    async def first(self, path: str) -> tuple[Json, ...]:
        """The first page of what is at a path: a sample that costs one request."""
        page = await self._call("GET", path, {"limit": str(PAGE)})
        return tuple(page.get("items") or ())

    async def create(self, path: str, document: Json) -> bool:
        """Make an object; False when one of this name is there already."""
        try:
            await self._call("POST", path, {"fieldManager": MANAGER}, document)
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def judge(self, path: str, document: Json) -> None:
        """Have a new object judged as a strict server does, without keeping it. Raises ClusterError with its words."""
        await self._call("POST", path, {"dryRun": "All", "fieldValidation": "Strict"}, document)

    async def apply(self, path: str, document: Json) -> None:
        """Server-side apply of a whole object."""
        query = {"fieldManager": MANAGER, "force": "true"}
        await self._call("PATCH", path, query, document, "application/apply-patch+yaml")

    async def replace(self, path: str, document: Json) -> bool:
        """Put an object in the place of the version that it names; False when that is not the newest any more."""
        try:
            await self._call("PUT", path, {"fieldManager": MANAGER}, document)
        except ClusterError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def patch_status(self, path: str, status: Json, version: str) -> bool:
        """Replace a status; False when the object is no longer the one that was read."""
        change = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            await self._call(
                "PATCH", f"{path}/status", {"fieldManager": MANAGER}, change, "application/json-patch+json"
            )
        except ClusterError as error:
            if error.status in (404, 409, 422):
                return False
            raise
        return True

    async def delete(self, path: str, uid: str, force: bool = False) -> None:
        """Delete the object with this uid, if it is still there."""
        options: Json = {"preconditions": {"uid": uid}}
        if force:
            options["gracePeriodSeconds"] = 0
        try:
            await self._call("DELETE", path, {}, options)
        except ClusterError as error:
            if error.status not in (404, 409):
                raise

    async def _call(
        self, verb: str, path: str, query: dict[str, str] | None = None, body: object = None, content: str = ""
    ) -> Json:
        headers = {"Accept": "application/json", "Content-Type": content or "application/json"}
        status = 0
        try:
            await _suffer(drilled.get())
            method, url, header, data, _ = await self._api.param_serialize(
                verb, path, query_params=list((query or {}).items()), header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            answer = await self._api.call_api(
                method, url, header, data, _request_timeout=REQUEST_SECONDS, _preload_content=False
            )
            status = int(answer.status)
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(0, f"{verb} {path}: {error or type(error).__name__}") from error
        finally:
            key = (verb, resource_of(path), status)
            self.requests[key] = self.requests.get(key, 0) + 1
        if status >= 400:
            kind = NamespaceEnding if status == FORBIDDEN and _namespace_ends(text) else ClusterError
            raise kind(status, f"{verb} {path}: {_reason(text)}")
        found: Json = json.loads(text)
        return found


async def _suffer(fault: Fault | None) -> None:
    if fault is Fault.API_AWAY:
        raise TimeoutError("a drill keeps the API server away")
    if fault is Fault.API_SLOW:
        await asyncio.sleep(SLOW_SECONDS)


def _namespace_ends(text: bytes) -> bool:
    try:
        causes = (json.loads(text).get("details") or {}).get("causes") or []
    except (ValueError, AttributeError):
        return False
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _reason(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])[:1000]
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace")[:300]


def core(namespace: str, resource: str, name: str = "") -> str:
    """Path of a core object or list."""
    return f"/api/v1/namespaces/{namespace}/{resource}" + (f"/{name}" if name else "")


def ours(namespace: str, plural: str, name: str = "") -> str:
    """Path of one of our resources."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def jobs(namespace: str, name: str = "") -> str:
    """Path of Jobs."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs" + (f"/{name}" if name else "")


def network_policies(namespace: str) -> str:
    """Path of NetworkPolicies."""
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"


def custom(group_version: str, namespace: str, plural: str, name: str = "") -> str:
    """Path of somebody else's resource; of one that is the cluster's where `namespace` is empty."""
    place = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{group_version}/{place}{plural}" + (f"/{name}" if name else "")


def node(name: str) -> str:
    """Path of a node."""
    return f"/api/v1/nodes/{name}"


def lease(namespace: str, name: str = "") -> str:
    """Path of leases."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases" + (f"/{name}" if name else "")


def resource_of(path: str) -> str:
    """The resource that a path is about, for counting."""
    words = [word for word in path.split("/") if word]
    words = words[2:] if words[0] == "api" else words[3:]
    return words[2] if words[0] == "namespaces" and len(words) > 2 else words[0]
