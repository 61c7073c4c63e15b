"""Names and labels of everything that belongs to a run or a build. A name follows from owner, slot and attempt."""

from __future__ import annotations

from tessera_api.resource import GROUP

RUN_LABEL = f"{GROUP}/run"
BUILD_LABEL = f"{GROUP}/build"
ROLE_LABEL = f"{GROUP}/role"
SLOT_LABEL = f"{GROUP}/slot"
ATTEMPT_LABEL = f"{GROUP}/attempt"
AVOIDS_ANNOTATION = f"{GROUP}/avoids"
WORKER, COORDINATOR, BUILDER = "worker", "coordinator", "builder"
COORDINATOR_SLOT = "c0"
PORT = 7400


def pod_name(run: str, slot: str, attempt: int) -> str:
    """The how-manieth pod of a slot; also the node's name in the run's log."""
    return f"{run}-{slot}-{attempt}"


def node_slots(count: int) -> list[str]:
    """The slots of a run's nodes, spares included."""
    return [f"n{place}" for place in range(count)]


def secret_name(run: str, uid: str) -> str:
    """The Secret with the key of one run: that of an older run of the name may still be there, and cannot be read."""
    return f"{run}-key-{uid[:8]}"


def start_name(run: str, start: int) -> str:
    """The ConfigMap with run.json of one start."""
    return f"{run}-start-{start}"


def service_name(run: str) -> str:
    """The headless Service of the run's nodes."""
    return f"{run}-nodes"


def coordinator_service(run: str, slot: str = COORDINATOR_SLOT) -> str:
    """The Service of one coordinator."""
    return f"{run}-coordinator-{slot}"


def coordinator_address(run: str, namespace: str) -> str:
    """HOST:PORT, from every pod of the cluster."""
    return f"{coordinator_service(run)}.{namespace}.svc.cluster.local:{PORT}"


def build_name(build: str) -> str:
    """The Job of a build, and the ConfigMap with its manifest."""
    return f"{build}-build"
