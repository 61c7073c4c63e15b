"""Names and labels of everything that belongs to a run or a build. A name follows from owner, slot and attempt."""

from __future__ import annotations

from tessera_api.resource import GROUP

RUN_LABEL = f"{GROUP}/run"
BUILD_LABEL = f"{GROUP}/build"
ROLE_LABEL = f"{GROUP}/role"
SLOT_LABEL = f"{GROUP}/slot"
ATTEMPT_LABEL = f"{GROUP}/attempt"
AVOIDS_ANNOTATION = f"{GROUP}/avoids"
ROTATE_ANNOTATION = f"{GROUP}/rotate-key"
DRILL_ANNOTATION = f"{GROUP}/drill"
"""Of a TrainingRun: another value asks for another key."""
KEYS_AHEAD = 4
"""So many keys after their start's first one a run's pods can read when they come: for each their kubelets watch for a
Secret that is not there yet."""
WORKER, COORDINATOR, BUILDER = "worker", "coordinator", "builder"
COORDINATOR_SLOTS = ("c0", "c1")
"""One leads, the other stands by."""
PORT = 7400
METRICS_PORT = 7401
BUILD_PORT = 7402
"""Where a build's pods say how far they are."""


def pod_name(run: str, slot: str, attempt: int) -> str:
    """The how-manieth pod of a slot; also the node's name in the run's log."""
    return f"{run}-{slot}-{attempt}"


def node_slots(count: int) -> list[str]:
    """The slots of a run's nodes, spares included."""
    return [f"n{place}" for place in range(count)]


def secret_name(run: str, uid: str) -> str:
    """The Secret with the one key of a run that an older version began: that of an older run of the name may still be
    there, and cannot be read."""
    return f"{run}-key-{uid[:8]}"


def keys_name(run: str, uid: str, number: int) -> str:
    """The Secret with one of a run's numbered keys."""
    return f"{secret_name(run, uid)}-{number}"


def start_name(run: str, start: int) -> str:
    """The ConfigMap with run.json of one start."""
    return f"{run}-start-{start}"


def service_name(run: str) -> str:
    """The headless Service of the run's nodes."""
    return f"{run}-nodes"


def coordinator_service(run: str, slot: str) -> str:
    """The Service of one coordinator."""
    return f"{run}-coordinator-{slot}"


def coordinator_addresses(run: str, namespace: str) -> str:
    """HOST:PORT of each coordinator, from every pod of the cluster, with commas between."""
    services = (coordinator_service(run, slot) for slot in COORDINATOR_SLOTS)
    return ",".join(f"{service}.{namespace}.svc.cluster.local:{PORT}" for service in services)


def coordinator_slots(addresses: str) -> tuple[str, ...]:
    """The slots of the coordinators at these addresses: a run that an older version began has one."""
    return COORDINATOR_SLOTS[: addresses.count(",") + 1]


def build_name(build: str) -> str:
    """The Job of a build, and the ConfigMap with its manifest."""
    return f"{build}-build"
