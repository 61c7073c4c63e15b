"""The status of a `TrainingRun`: what is known of a run, for people and for the operator's next pass.

Owns every field of it; all are optional, and numbers are texts, because the API server takes no floats. It is also
`status.json` of the run directory.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictInt, StringConstraints

from tessera_api.drill import Fault
from tessera_api.failure import FailureClass, Rung
from tessera_api.resource import Conditions, Document, keyed, listed

MOST_NODES = 16_384
MOST_SHOWN = 8
"""Stragglers."""
MOST_PODS = 16_700
"""With spares and coordinators."""


class RunPhase(StrEnum):
    """One word for people; no program may read it."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    RECOVERING = "Recovering"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


_Shown = Annotated[str, StringConstraints(max_length=32)]


_NodeName = Annotated[str, StringConstraints(max_length=63)]


class ShownIncident(Document):
    """A generation that ended unplanned."""

    number: Annotated[StrictInt, Field(ge=1)]
    """The how-manieth it was."""
    cause: Annotated[str, StringConstraints(max_length=300)]
    """What ended it, in words."""
    nodes: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=63)], ...],
        Field(max_length=8, json_schema_extra=listed("set")),
    ] = ()
    """The nodes that were lost, the first eight of them."""
    failure: FailureClass | None = None
    """Its class; not there before it is judged, when the next generation can be opened."""
    node: Annotated[str, StringConstraints(max_length=63)] | None = None
    """Where it came from, where that is known."""
    rank: Annotated[StrictInt, Field(ge=0)] | None = None
    """The rank that it came from, where that is known."""
    action: Rung | None = None
    """What was done about it."""
    evidence: Annotated[str, StringConstraints(max_length=64)] | None = None
    """The object in the run's storage that holds all that was seen of it."""
    detected: Annotated[str, StringConstraints(max_length=40)]
    """When it was noticed, RFC 3339."""
    recovery_seconds: _Shown | None = None
    """From the notice to the first step of a newer generation, a decimal."""
    steps_lost: Annotated[StrictInt, Field(ge=0)] | None = None
    """Steps that had to be computed again."""


class SpentSeconds(Document):
    """What all nodes together have spent on one thing."""

    cause: Annotated[str, StringConstraints(max_length=32)]
    """compute, data_wait, checkpoint_stall, evaluation, start_up, recovery, lost_work, spare, idle; or uncommitted:
    computed since the newest checkpoint, to be compute or lost work."""
    seconds: Annotated[StrictInt, Field(ge=0)]
    """Node-seconds."""


class DrillResult(StrEnum):
    """What came of a drill."""

    RUNS = "Runs"
    KEPT = "Kept"
    """The promise was kept,"""
    BROKEN = "Broken"
    """or not."""


class ShownStraggler(Document):
    """A node that holds up the others."""

    node: Annotated[str, StringConstraints(max_length=63)]
    """Its name."""
    rank: Annotated[StrictInt, Field(ge=0)]
    """The slowest of its ranks."""
    score: _Shown
    """How many times as long as the others it works on its share of a step, a decimal: the median of the last steps."""


class ShownDrill(Document):
    """A fault that was ordered."""

    identity: Annotated[str, StringConstraints(max_length=64)]
    """Of the order."""
    fault: Fault
    """What was done."""
    node: Annotated[str, StringConstraints(max_length=63)] | None = None
    """To which node; not there where it was the coordinator."""
    result: DrillResult = DrillResult.RUNS
    """Whether the run recovered as promised."""
    detect_seconds: _Shown | None = None
    """From the fault to its detection, a decimal."""
    recovery_seconds: _Shown | None = None
    """From the detection to the next step, a decimal."""
    steps_lost: Annotated[StrictInt, Field(ge=0)] | None = None
    """Steps that had to be computed again."""


class PodAttempts(Document):
    """The pods of one slot."""

    slot: Annotated[str, StringConstraints(max_length=16, pattern=r"^[a-z][0-9]+$")]
    """A place in the run: n0, n1, ... for nodes, c0, c1 for coordinators."""
    attempt: Annotated[StrictInt, Field(ge=0, le=1_000_000)]
    """The how-manieth pod of the slot is meant to be there; the first is 0."""
    quick: Annotated[StrictInt, Field(ge=0, le=1000)] = 0
    """How many pods in a row ended soon after they had begun."""
    out_of_memory: Annotated[StrictInt, Field(ge=0, le=1000)] = 0
    """How many pods in a row ended at their memory limit."""
    since: Annotated[str, StringConstraints(max_length=40)] | None = None
    """When this attempt was decided on, RFC 3339."""


class AvoidedNode(Document):
    """A node of the cluster that gets no pod of the run."""

    node: Annotated[str, StringConstraints(max_length=253)]
    """Its name."""
    since: Annotated[str, StringConstraints(max_length=40)]
    """When the run lost it, RFC 3339; it is taken again once its kubelet has reported for some seconds since, and as
    gladly as others an hour later if the run has lost it three times."""


class NodeLosses(Document):
    """A node of the cluster that the run has lost, or on which a pod of it has failed."""

    node: Annotated[str, StringConstraints(max_length=253)]
    """Its name."""
    count: Annotated[StrictInt, Field(ge=1, le=1000)]
    """How often, each time within a day of the one before."""
    last: Annotated[str, StringConstraints(max_length=40)]
    """When it was last, RFC 3339."""


class ShownKey(Document):
    """The newest of the keys with which a run's programs authenticate each other."""

    number: Annotated[StrictInt, Field(ge=1, le=1_000_000)]
    """The how-manieth key of the run."""
    made: Annotated[str, StringConstraints(max_length=40)]
    """When it was made, RFC 3339."""
    request: Annotated[str, StringConstraints(max_length=64)] = ""
    """The value of the annotation `tessera.dev/rotate-key` that was there by then; another one asks for another key."""
    message: Annotated[str, StringConstraints(max_length=300)] | None = None
    """Why there is no newer one, where one is due."""


class TrainingRunStatus(Document):
    """What is known of a run; also `status.json` of the run directory. Every field is optional."""

    conditions: Conditions | None = None
    """What holds and what does not; `Succeeded` is Unknown until the run ends."""
    observed_generation: Annotated[StrictInt, Field(ge=0)] | None = None
    """The generation of the resource that this status was computed for."""
    phase: RunPhase | None = None
    """One word for people, computed from the conditions."""
    step: _Shown | None = None
    """Steps done of all steps, such as 4200/20000."""
    loss: _Shown | None = None
    """Loss of the last step, a decimal."""
    tokens_per_second: _Shown | None = None
    """Tokens trained on in a second, such as 1.9M."""
    mfu: _Shown | None = None
    """Share of the peak FLOPs that the model's matrix products use, a decimal."""
    nodes: _Shown | None = None
    """Nodes that train of those wanted, such as 4/4."""
    active_nodes: Annotated[StrictInt, Field(ge=0, le=MOST_NODES)] | None = None
    """Nodes that train."""
    restarts: Annotated[StrictInt, Field(ge=0)] | None = None
    """Generations after the first."""
    goodput: _Shown | None = None
    """Share of the allocated node-seconds that went into steps that count, a decimal."""
    ettr: _Shown | None = None
    """The same, without what nodes spent on standing ready."""
    node_seconds: Annotated[tuple[SpentSeconds, ...], Field(max_length=16, json_schema_extra=keyed("cause"))] | None = (
        None
    )
    """Where all node-seconds since the run began went."""
    cost: _Shown | None = None
    """What they cost, a decimal, where the administrator has given a price."""
    lost_work_cost: _Shown | None = None
    """What of it was computed and thrown away."""
    eta: _Shown | None = None
    """Time left at the present rate, such as 3h12m."""
    age: _Shown | None = None
    """Time since the run was created, such as 58m."""
    start: Annotated[StrictInt, Field(ge=1, le=100_000)] | None = None
    """The how-manieth start is under way, or comes next: the first, and one for each time that the run goes on after it
    was suspended."""
    incidents: Annotated[tuple[ShownIncident, ...], Field(max_length=20, json_schema_extra=keyed("number"))] | None = (
        None
    )
    """The newest generations that ended unplanned."""
    stragglers: (
        Annotated[tuple[ShownStraggler, ...], Field(max_length=MOST_SHOWN, json_schema_extra=keyed("node"))] | None
    ) = None
    """Nodes that are slower than the others, the slowest first."""
    drills: Annotated[tuple[ShownDrill, ...], Field(max_length=10, json_schema_extra=keyed("identity"))] | None = None
    """The newest drills."""
    attempts: (
        Annotated[tuple[PodAttempts, ...], Field(max_length=MOST_PODS, json_schema_extra=keyed("slot"))] | None
    ) = None
    """Which pod of each slot is meant to be there, where it is not the first."""
    active_seconds: Annotated[StrictInt, Field(ge=0)] | None = None
    """Seconds in which the run has had nodes, over all its starts."""
    active_at: Annotated[str, StringConstraints(max_length=40)] | None = None
    """Up to when they were counted, RFC 3339; not there while the run has no nodes."""
    key: ShownKey | None = None
    """The newest of the run's keys."""
    avoided: Annotated[tuple[AvoidedNode, ...], Field(max_length=64, json_schema_extra=keyed("node"))] | None = None
    """Lost nodes that have not come back, which get no pod of the run, and nodes that were lost again and again, which
    get one only where no other has room."""
    losses: Annotated[tuple[NodeLosses, ...], Field(max_length=64, json_schema_extra=keyed("node"))] | None = None
    """How often the run has lost each node of the cluster, the newest 64."""
