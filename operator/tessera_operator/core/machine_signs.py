"""Signs on the cluster's nodes that one is about to end, or that its devices are sick: taints, conditions and labels
that clouds and node agents put there. Pure; the administrator may add to them (`machineSigns` of the chart).

What must stay true: a sign makes a run hand over before it is hurt, where other nodes are enough; it never ends a pod
that trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Place(StrEnum):
    """Where a sign stands."""

    TAINT = "taint"
    CONDITION = "condition"
    LABEL = "label"


class MachineSign(BaseModel):
    """One sign: of that name, with that value where one is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    place: Place
    name: Annotated[str, Field(min_length=1, max_length=317)]
    value: Annotated[str, Field(max_length=316)] = ""
    """Of a taint or label; a condition's status. Empty: any, and of a condition True."""
    sick: bool = False
    """Its devices are; else the node is about to end."""
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """So long it may be used still."""


KNOWN = (
    MachineSign(place=Place.TAINT, name="aws-node-termination-handler/spot-itn", seconds=120),
    MachineSign(place=Place.TAINT, name="aws-node-termination-handler/asg-lifecycle-termination"),
    MachineSign(place=Place.TAINT, name="aws-node-termination-handler/scheduled-maintenance"),
    MachineSign(place=Place.TAINT, name="cloud.google.com/impending-node-termination", seconds=25),
    MachineSign(place=Place.TAINT, name="karpenter.sh/disrupted"),
    MachineSign(place=Place.TAINT, name="ToBeDeletedByClusterAutoscaler"),
    MachineSign(place=Place.CONDITION, name="VMEventScheduled", seconds=30),
    MachineSign(place=Place.CONDITION, name="AcceleratedHardwareReady", value="False", sick=True),
    MachineSign(
        place=Place.LABEL,
        name="sagemaker.amazonaws.com/node-health-status",
        value="UnschedulablePendingReplacement",
        sick=True,
    ),
    MachineSign(
        place=Place.LABEL,
        name="sagemaker.amazonaws.com/node-health-status",
        value="UnschedulablePendingReboot",
        sick=True,
    ),
)
"""Those of the large clouds' own agents (AWS node termination handler, EKS node monitoring, HyperPod; GKE; AKS), of
Karpenter and of the cluster autoscaler."""


@dataclass(frozen=True)
class MachineWarning:
    """What a node's signs come to."""

    words: str
    sick: bool
    seconds: float


def warning_of(machine: Mapping[str, Any], signs: Iterable[MachineSign]) -> MachineWarning | None:
    """Of a Node as the API shows it; the sign that leaves least time, None where there is none."""
    found = [(sign, words) for sign in signs if (words := _found(machine, sign))]
    if not found:
        return None
    sign, words = min(found, key=lambda one: one[0].seconds)
    return MachineWarning(words[:500], any(one.sick for one, _ in found), sign.seconds)


def _found(machine: Mapping[str, Any], sign: MachineSign) -> str:
    match sign.place:
        case Place.TAINT:
            taints = (machine.get("spec") or {}).get("taints") or []
            there = any(taint.get("key") == sign.name and _fits(taint.get("value"), sign) for taint in taints)
            return f"its machine has the taint {sign.name}" if there else ""
        case Place.CONDITION:
            wanted = (sign.name, sign.value or "True")
            conditions = (machine.get("status") or {}).get("conditions") or []
            found = next((c for c in conditions if (c.get("type"), c.get("status")) == wanted), None)
            return f"its machine has the condition {sign.name}={wanted[1]}: {_said(found)}" if found else ""
        case Place.LABEL:
            value = (machine["metadata"].get("labels") or {}).get(sign.name)
            there = value is not None and _fits(value, sign)
            return f"its machine has the label {sign.name}={value}" if there else ""


def _fits(value: str | None, sign: MachineSign) -> bool:
    return sign.value in ("", value or "")


def _said(condition: Mapping[str, Any]) -> str:
    return str(condition.get("message") or condition.get("reason") or "no reason given")
