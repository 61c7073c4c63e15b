"""Signs on the cluster's nodes: known, told to the run's coordinator, and a pod that has handed over is replaced
elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tessera_api.orders import WarnedNode, Warnings
from tessera_api.times import stamp
from tessera_operator.core.machine_signs import KNOWN, MachineSign, MachineWarning, Place, warning_of
from tessera_operator.core.run_decision import decide
from tessera_operator.core.view import Machine
from tests.unit.operator_world import ALL_COUNTED, HEALTHY, NOW, PODS, a_view

TRAINING = frozenset({"gpt-n0-0", "gpt-n1-0"})
ENDS = MachineWarning("its machine has the taint spot", sick=False, seconds=120.0)


def machine(
    taints: dict[str, str] | None = None, conditions: dict[str, str] | None = None, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "metadata": {"name": "host", "labels": labels or {}},
        "spec": {"taints": [{"key": key, "value": value} for key, value in (taints or {}).items()]},
        "status": {
            "conditions": [
                {"type": kind, "status": status, "message": "said so"} for kind, status in (conditions or {}).items()
            ]
        },
    }


@pytest.mark.parametrize(
    ("document", "words", "sick", "seconds"),
    [
        (
            machine(taints={"aws-node-termination-handler/spot-itn": "x"}),
            "its machine has the taint aws-node-termination-handler/spot-itn",
            False,
            120,
        ),
        (
            machine(conditions={"AcceleratedHardwareReady": "False", "Ready": "True"}),
            "its machine has the condition AcceleratedHardwareReady=False: said so",
            True,
            60,
        ),
        (
            machine(labels={"sagemaker.amazonaws.com/node-health-status": "UnschedulablePendingReboot"}),
            "its machine has the label sagemaker.amazonaws.com/node-health-status=UnschedulablePendingReboot",
            True,
            60,
        ),
        (
            machine(taints={"karpenter.sh/disrupted": ""}, conditions={"VMEventScheduled": "True"}),
            "its machine has the condition VMEventScheduled=True: said so",
            False,
            30,
        ),
    ],
)
def test_the_signs_of_the_clouds_are_known(document: dict[str, Any], words: str, sick: bool, seconds: float) -> None:
    assert warning_of(document, KNOWN) == MachineWarning(words, sick, seconds)


@pytest.mark.parametrize(
    "document",
    [
        machine(),
        {"metadata": {}},
        machine(conditions={"AcceleratedHardwareReady": "True", "VMEventScheduled": "False"}),
        machine(labels={"sagemaker.amazonaws.com/node-health-status": "Schedulable"}),
        machine(taints={"node.kubernetes.io/unschedulable": ""}),
    ],
)
def test_a_machine_that_is_well_has_none(document: dict[str, Any]) -> None:
    assert warning_of(document, KNOWN) is None


def test_an_administrators_own_sign_is_looked_for_with_its_value() -> None:
    own = MachineSign(place=Place.TAINT, name="example.com/gpu", value="bad", sick=True, seconds=10)

    assert warning_of(machine(taints={"example.com/gpu": "fine"}), (own,)) is None
    assert warning_of(machine(taints={"example.com/gpu": "bad"}), (own,)) is not None


def with_a_warning(host: str = "host-n1") -> dict[str, Machine]:
    return {**HEALTHY, host: Machine(True, 3.0, NOW - 3, ENDS)}


def test_the_coordinator_is_told_and_a_pod_that_trains_stays() -> None:
    view = a_view(pods=PODS, answer=replace(ALL_COUNTED, training=TRAINING))
    view = replace(view, machines=with_a_warning())

    plan = decide(view)

    warned = WarnedNode(node="gpt-n1-0", reason=ENDS.words, within_seconds=120.0)
    assert plan.warnings == Warnings(nodes=(warned,))
    assert (plan.delete, plan.make) == ((), ())


def test_a_pod_that_has_handed_over_is_replaced_and_its_machine_avoided() -> None:
    answer = replace(ALL_COUNTED, training=frozenset({"gpt-n0-0", "gpt-n2-0"}))
    view = a_view(pods=PODS, answer=answer)
    plan = decide(replace(view, machines=with_a_warning()))

    assert [(made.slot, made.attempt) for made in plan.make] == [("n1", 1)]
    assert [gone.name for gone in plan.delete] == ["gpt-n1-0"]
    assert plan.hosts is not None
    assert plan.hosts.gone == {"host-n1": stamp(NOW)}
    assert plan.hosts.losses == {}, "nothing was lost"


def test_while_nobody_trains_nobody_is_replaced_for_a_sign() -> None:
    view = a_view(pods=PODS, answer=ALL_COUNTED)

    plan = decide(replace(view, machines=with_a_warning()))

    assert (plan.delete, plan.make) == ((), ())
