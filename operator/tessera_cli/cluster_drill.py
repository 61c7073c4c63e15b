"""`tessera drill --namespace`: order a fault of a run on a cluster by its annotation, and wait for what its status says
of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Protocol

from pydantic import ValidationError

from tessera_api.exit_codes import ExitCode
from tessera_api.resource import GROUP
from tessera_api.training_run import Drills, TrainingRun
from tessera_api.training_run_status import DrillResult, ShownDrill
from tessera_cli.cluster_runs import Json
from tessera_cli.drilling import RESULT_SECONDS, Order, told, whom
from tessera_cli.refusal import Refused

ANNOTATION = f"{GROUP}/drill"
BEGIN_SECONDS = 60.0
"""Operator and coordinator hear of it, and the status is written."""
LOOK_SECONDS = 1.0


class Resource(Protocol):
    """A run on a cluster."""

    name: str

    def read(self) -> Json:
        """The whole resource."""

    def annotate(self, key: str, value: str) -> None:
        """One annotation."""


def drill(
    resource: Resource,
    order: Order,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> ExitCode:
    """As `drilling.drill`. Raises Refused."""
    run = _run(resource)
    if run.spec.drills is not Drills.ALLOWED:
        raise Refused(f"run {resource.name} allows no drills: set spec.drills to Allowed")
    identity = secrets.token_hex(6)
    words = [identity, order.fault.value, *([order.node] if order.node else []), f"{order.seconds:g}"]
    resource.annotate(ANNOTATION, " ".join(words))

    def look(limit: float, over: bool, otherwise: str) -> ShownDrill:
        deadline = clock() + limit
        while clock() < deadline:
            shown = _shown(resource.read(), identity)
            if shown is not None and not (over and shown.result is DrillResult.RUNS):
                return shown
            pause(LOOK_SECONDS)
        raise Refused(otherwise, ExitCode.UNAVAILABLE)

    why = "it has to train, and the node to be one that does; the coordinator's log says why"
    shown = look(BEGIN_SECONDS, False, f"no drill was done within {BEGIN_SECONDS:.0f} s: {why}")
    say(f"{shown.fault.value} is done to {whom(shown)}")
    limit = RESULT_SECONDS + order.seconds + run.spec.hang_seconds
    shown = look(limit, True, f"the run has not recovered within {limit:.0f} s")
    return told(shown, run.spec, say)


def _run(resource: Resource) -> TrainingRun:
    found = resource.read()
    document = {key: found.get(key) for key in ("apiVersion", "kind", "spec")}
    try:
        return TrainingRun.parse({**document, "metadata": {"name": resource.name}})
    except ValidationError as error:
        raise Refused(f"this version of tessera does not understand run {resource.name}: {error}") from error


def _shown(resource: Json, identity: str) -> ShownDrill | None:
    found = (resource.get("status") or {}).get("drills") or []
    return next((ShownDrill.model_validate(one) for one in found if one.get("identity") == identity), None)
