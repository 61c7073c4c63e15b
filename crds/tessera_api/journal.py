"""The journal's records: the fine-grained history between two log entries (design.md §2.0).

Owns the form of the lines in `events.jsonl` and `metrics.jsonl` and of the journal that both are written from.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from tessera_api.drill import Drill
from tessera_api.incident import Finding, Incident
from tessera_api.record import Count, Record, Text


class EventName(StrEnum):
    """What can happen to a run. A closed set; notes of trainers come as `NOTE`."""

    COORDINATOR_STARTED = "CoordinatorStarted"
    NODE_SEEN = "NodeSeen"
    NODE_LOST = "NodeLost"
    NODE_LEFT = "NodeLeft"
    NODE_RETURNED = "NodeReturned"
    GENERATION_OPENED = "GenerationOpened"
    GENERATION_OVER = "GenerationOver"
    GENERATION_ADOPTED = "GenerationAdopted"
    FIRST_STEP = "FirstStep"
    COLLECTIVE_ERROR = "CollectiveError"
    WORKER_FAILED = "WorkerFailed"
    COMMITTED = "Committed"
    RETIRED = "Retired"
    REWOUND = "Rewound"
    SKIPPED = "Skipped"
    PHASE = "Phase"
    HANG = "Hang"
    DIAGNOSED = "Diagnosed"
    DRILL = "Drill"
    STRAGGLER = "Straggler"
    STOP_ORDERED = "StopOrdered"
    SELF_DOUBT = "SelfDoubt"
    STORAGE_TROUBLE = "StorageTrouble"
    STORAGE_BACK = "StorageBack"
    NOTE = "Note"
    ENDED = "Ended"


class Event(Record):
    """One line of `events.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_enum_values=False)

    record: Literal["event"] = "event"
    time: float
    """Unix seconds."""
    name: EventName
    generation: Count = 0
    term: Count = 0
    node: str | None = None
    message: Text = ""
    numbers: dict[str, float] = {}


class StepLine(Record):
    """One line of `metrics.jsonl`."""

    record: Literal["step"] = "step"
    time: float
    """Unix seconds when the step was completed."""
    step: Count
    tokens: Count
    loss: float
    grad_norm: float | None = None
    lr: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds: float | None = None
    """How long the step took."""
    data_seconds: float | None = None
    generation: Annotated[int, Field(ge=1)]
    world_size: Annotated[int, Field(ge=1)]
    numbers: dict[str, float] = {}


class LedgerLine(Record):
    """Node-seconds of the run so far, by cause; cumulative, so that the newest line counts."""

    record: Literal["ledger"] = "ledger"
    time: float
    seconds: dict[str, float]
    uncommitted: float = 0.0
    """Computed since the newest commit: not settled yet."""


class IncidentLine(Record):
    """An incident as it stands now; of each number the newest line counts. A coordinator that is moved to another
    machine knows of it from here."""

    record: Literal["incident"] = "incident"
    incident: Incident


class EvidenceLine(Record):
    """All that was seen of an incident: its bundle, `incidents/NNNN/evidence.json`."""

    record: Literal["evidence"] = "evidence"
    number: Count
    """Of the incident."""
    findings: tuple[Finding, ...]


class DrillLine(Record):
    """A drill that was done."""

    record: Literal["drill"] = "drill"
    time: float
    """When, Unix seconds."""
    drill: Drill


class SizeLine(Record):
    """How many nodes the run was told to have, while it ran: of the start that runs, the newest line counts."""

    record: Literal["size"] = "size"
    time: float
    start: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]
    min: Annotated[int, Field(ge=1)]


_Any = Event | StepLine | LedgerLine | IncidentLine | EvidenceLine | DrillLine | SizeLine
JournalRecord = Annotated[_Any, Field(discriminator="record")]
JOURNAL_RECORD: TypeAdapter[JournalRecord] = TypeAdapter(JournalRecord)
