"""Builders for what the operator's decisions see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tessera_api.dataset_build import DatasetBuildStatus
from tessera_api.resolved_run import ResolvedRun
from tessera_api.resource import Condition
from tessera_api.training_run import TrainingRun
from tessera_api.training_run_status import TrainingRunStatus
from tessera_operator import names
from tessera_operator.core.resolve import Ingredients, Surroundings, resolve
from tessera_operator.core.run_decision import Plan
from tessera_operator.core.view import Answer, Machine, Pod, View
from tessera_operator.profiles import Profile

NOW = 1_790_000_000.0
SHA = "0" * 64
RUN: dict[str, Any] = {
    "apiVersion": "tessera.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "gpt", "namespace": "team"},
    "spec": {
        "method": "pretrain",
        "model": {"recipe": "llama-1m"},
        "data": {"sequenceLength": 128, "mix": [{"dataset": "stdlib", "weight": "1"}]},
        "training": {
            "tokens": "100k",
            "seed": 7,
            "globalBatch": 8,
            "unit": 2,
            "learningRate": "1e-3",
            "schedule": {"kind": "cosine", "warmupSteps": 5},
        },
        "nodes": {"count": 2, "min": 1, "max": 2, "spares": 1},
        "storage": {"uri": "s3://models/runs", "secretRef": {"name": "models-s3"}},
    },
}


def a_run(status: TrainingRunStatus | None = None, **spec: Any) -> TrainingRun:
    document = {**RUN, "spec": {**RUN["spec"], **spec}}
    return TrainingRun.parse(document).model_copy(update={"status": status})


def condition(kind: str, status: str, reason: str = "Because", message: str = "words") -> Condition:
    return Condition.model_validate({"type": kind, "status": status, "reason": reason, "message": message})


def built() -> DatasetBuildStatus:
    return DatasetBuildStatus(
        conditions=(condition("Succeeded", "True"),),
        manifest="s3://models/datasets/stdlib/manifest.json",
        manifest_sha256=SHA,
        tokenizer_sha256=SHA,
        fingerprint=SHA,
        vocabulary=512,
        tokens=100_000,
    )


def a_start(run: TrainingRun | None = None, first_key: int | None = None) -> ResolvedRun:
    around = Surroundings(names.coordinator_addresses("gpt", "team"), {"python": "3.11"}, NOW, NOW, first_key)
    return resolve(run or a_run(), Ingredients({"stdlib": built()}), Profile(), around)


def a_pod(slot: str, attempt: int = 0, **more: Any) -> Pod:
    role = names.COORDINATOR if slot.startswith("c") else names.WORKER
    name = names.pod_name("gpt", slot, attempt)
    pod = Pod(name, f"uid-{name}", role, slot, attempt, "Running", f"host-{slot}", NOW - 300)
    return replace(pod, **more)


PODS = (a_pod("c0"), a_pod("c1"), a_pod("n0"), a_pod("n1"), a_pod("n2"))
HEALTHY = {f"host-{slot}": Machine(True, 3.0, NOW - 3) for slot in ("c0", "c1", "n0", "n1", "n2")}
DEAD = Machine(True, 25.0, NOW - 25)


def an_answer(*counted: str, missing: tuple[str, ...] = (), **more: Any) -> Answer:
    coordinators = frozenset({"gpt-c0-0", "gpt-c1-0"})
    answer = Answer(TrainingRunStatus(), frozenset(counted), frozenset(missing), None, 1.0, coordinators)
    return replace(answer, **more)


ALL_COUNTED = an_answer("gpt-n0-0", "gpt-n1-0", "gpt-n2-0")


def a_view(**more: Any) -> View:
    """A run in full flight: two coordinators, two nodes and a spare, all counted, all hosts healthy."""
    view = View(
        run=a_run(),
        created=NOW - 400,
        generation=1,
        now=NOW,
        pods=PODS,
        start=a_start(),
        profiles=frozenset({"cpu"}),
        machines=HEALTHY,
        answer=ALL_COUNTED,
    )
    return replace(view, **more)


def avoided(plan: Plan) -> dict[str, str]:
    """The nodes of the cluster that get no pod of the run, each with the time of its loss."""
    return plan.hosts.avoided if plan.hosts is not None else {}
