"""kopf: the watches. A handler only wakes a key; nothing is decided from an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from tessera_api.resource import GROUP, VERSION
from tessera_operator import names
from tessera_operator.cluster import KUEUE
from tessera_operator.profiles import Gang
from tessera_operator.reconcile import BUILD, RUN
from tessera_operator.wakes import Key

Wake = Callable[[Key], None]


def registry(
    wake: Wake,
    event: Callable[[str], None] = lambda resource: None,
    gang: Gang = Gang.NONE,
    machine: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> kopf.OperatorRegistry:
    """Watches of runs, builds, their pods and Jobs, of Kueue's Workloads where runs wait for it, and of the cluster's
    nodes where `machine` is told of them; `event` is told the resource of each event."""
    handlers = kopf.OperatorRegistry()
    kopf.on.startup(registry=handlers)(_configure)
    kopf.on.login(registry=handlers)(_login)
    for plural in (RUN, BUILD):
        kopf.on.event(GROUP, VERSION, plural, registry=handlers, id=plural)(_resource(wake, event, plural))
    kopf.on.event("v1", "pods", registry=handlers, id="pods")(_child(wake, event, "pods"))
    kopf.on.event("batch", "v1", "jobs", registry=handlers, id="jobs")(_child(wake, event, "jobs"))
    if gang is Gang.KUEUE:
        group, version = KUEUE.split("/")
        kopf.on.event(group, version, "workloads", registry=handlers, id="workloads")(_child(wake, event, "workloads"))
    if machine is not None:
        kopf.on.event("v1", "nodes", registry=handlers, id="nodes")(_machine(machine, event))
    return handlers


def _machine(machine: Callable[[str, Mapping[str, Any]], None], event: Callable[[str], None]) -> Any:
    async def seen(name: str | None, body: Mapping[str, Any], type: str | None, **_: Any) -> None:
        event("nodes")
        if name and type != "DELETED":
            machine(name, body)

    return seen


def _resource(wake: Wake, event: Callable[[str], None], plural: str) -> Any:
    async def seen(namespace: str | None, name: str | None, **_: Any) -> None:
        event(plural)
        if namespace and name:
            wake(Key(plural, namespace, name))

    return seen


def _child(wake: Wake, event: Callable[[str], None], resource: str) -> Any:
    async def seen(namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        event(resource)
        for label, plural in ((names.RUN_LABEL, RUN), (names.BUILD_LABEL, BUILD)):
            if namespace and (name := labels.get(label)):
                wake(Key(plural, namespace, name))

    return seen


async def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.persistence.finalizer = f"{GROUP}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.watching.reconnect_backoff = 1
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["pods"] = "app.kubernetes.io/managed-by=tessera"
    settings.watching.label_selectors["jobs"] = "app.kubernetes.io/managed-by=tessera"
    settings.watching.label_selectors["workloads"] = "app.kubernetes.io/managed-by=tessera"
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = [1, 2, 4, 8]
    settings.execution.max_workers = 8


async def _login(**more: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**more) or kopf.login_with_kubeconfig(**more)
