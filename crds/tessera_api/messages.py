"""What agents, controllers and the coordinator say to each other over one stream (design.md §2.1).

Owns the form of the messages and their version. How they travel (frames, authentication) is `wire.py`.

* An **agent** (one per node) says `Hello` on every new stream with all it holds, then `Join` whenever it is without a
generation, and a `Beat` each second. Messages that must arrive (`Report`s) carry a sequence number and are repeated
until acknowledged.
* A **controller** (the `tessera` command, the operator) says `Hello`, then orders and questions.
* A coordinator that does not lead answers `Hello` with `Standby`; it hears **witnesses**, and asks the leader.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tessera_api.drill import Drill
from tessera_api.inspection import Inspect, Inspected, Prove
from tessera_api.kept_part import MAX_KEPT, KeptPart
from tessera_api.log import Skipped, StoredObject
from tessera_api.orders import Places, Reaped, Size, StatusQuestion, StopRun, Warnings
from tessera_api.record import Count, Name, Record, Text
from tessera_api.seat import Pieces, PiecesQuestion, Seat
from tessera_api.trouble import Trouble

PROTOCOL = 1
"""Raised when a message changes its meaning; the coordinator serves this one and the one before."""
BEAT_SECONDS = 1.0
STRAGGLER = "straggler_"
"""Among a step's numbers, before a rank: how many times as long as the others it works alone."""
MAX_NUMBERS = 32
"""Named numbers in one step's record or note; more would not fit into a frame with a report's worth of steps."""

Numbers = Annotated[dict[Annotated[str, Field(max_length=40)], float], Field(max_length=MAX_NUMBERS)]


class Role(StrEnum):
    """Who is at the other end of a stream."""

    AGENT = "agent"
    CONTROLLER = "controller"
    WITNESS = "witness"
    """An agent's second stream."""
    STANDBY = "standby"


class Phase(StrEnum):
    """What the trainers of a generation are doing, as they declare it."""

    START = "start"
    TRAIN = "train"
    CHECKPOINT = "checkpoint"
    EVALUATION = "evaluation"
    EXPORT = "export"
    PARKED = "parked"


class Holding(Record):
    """The generation that an agent runs, or ran last: handed to a coordinator that was restarted."""

    term: Count
    generation: Annotated[int, Field(ge=1)]
    digest: Annotated[str, Field(max_length=16)]
    """Of the log's entry, as the seat had it."""
    collective_error: bool = False
    """A trainer of this node met a collective error in this generation, and waits to be told."""
    finished: bool = False
    """All trainers of this node ended with success: it waits for the verdict."""


class Processes(Record):
    """The processes of a node: whoever ends the node must end all of these sessions."""

    agent_pid: Annotated[int, Field(ge=1)]
    worker_pids: Annotated[tuple[int, ...], Field(max_length=64)] = ()
    sessions: Annotated[tuple[int, ...], Field(max_length=200)] = ()


# ---- agent to coordinator ---------------------------------------------------------------------------------------


class Hello(Record):
    """First message of every stream."""

    kind: Literal["hello"] = "hello"
    protocol: int = PROTOCOL
    role: Role
    node: Name
    incarnation: Annotated[str, Field(max_length=32)]
    host: Annotated[str, Field(max_length=253)] = "127.0.0.1"
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Trainers on this node."""
    lived: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Seconds since this agent began: so long the node has been the run's."""
    known: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Seconds since a coordinator first welcomed it; 0: none has."""
    holding: Holding | None = None
    term_seen: Count = 0
    """The highest term that this agent has obeyed; a coordinator with a smaller one ends itself."""
    proof: Annotated[str | None, Field(max_length=64)] = None
    """Of one that is no agent: that it holds the run's control key, which nodes do not have."""


class Beat(Record):
    """Sign of life, each `BEAT_SECONDS`."""

    kind: Literal["beat"] = "beat"
    generation: Count = 0
    """0: none."""
    step: Annotated[int, Field(ge=-1)] = -1
    """The highest optimizer step completed on this node in this generation; -1: none yet."""
    step_age: float | None = None
    """Seconds since that step was completed, by the agent's own clock."""
    units: Count = 0
    """Units computed by one rank of this node in this generation: progress inside a step."""
    phase: Phase = Phase.START
    processes: Processes | None = None
    """None: as last said on this stream."""


class Join(Record):
    """The agent has no workers and offers itself for the next generation; repeated on every new stream."""

    kind: Literal["join"] = "join"
    sequence: Annotated[int, Field(ge=1)]
    """How many times this incarnation has asked for a generation."""
    store_port: Annotated[int, Field(ge=1, le=65535)]
    """Already bound: where this node's TCPStore listens should it come first."""
    left: Holding | None = None
    fingerprint: Annotated[str, Field(max_length=64)] = ""
    """Of the numerics: device or instruction set and library versions."""
    processes: Processes
    keeper_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where this node's keeper listens."""
    kept: Annotated[tuple[KeptPart, ...], Field(max_length=MAX_KEPT)] | None = None
    """Parts of snapshots that this node holds in memory."""


class StepRecord(Record):
    """One line of `metrics.jsonl` before the coordinator adds what it knows."""

    step: Count
    tokens: Count
    """Trained on since the run began, this step included."""
    loss: float
    time: float
    """Unix seconds when the step was completed, by the node's own clock."""
    numbers: Numbers = {}
    """grad_norm, lr, tokens_per_second, mfu, seconds, ..."""


class Steps(Record):
    """Completed optimizer steps, from the node of rank 0."""

    kind: Literal["steps"] = "steps"
    generation: Annotated[int, Field(ge=1)]
    records: Annotated[tuple[StepRecord, ...], Field(max_length=1000)]
    sent: float = 0.0
    """Unix seconds when this was sent, by the same clock: tells a coordinator elsewhere how old each record is."""


class Part(Record):
    """A rank has stored its share of a checkpoint."""

    kind: Literal["part"] = "part"
    generation: Annotated[int, Field(ge=1)]
    rank: Count
    step: Count
    position: Count
    objects: Annotated[tuple[StoredObject, ...], Field(max_length=64)]
    seconds: float = 0.0
    """From the step boundary until the last byte was stored."""
    stall_seconds: float = 0.0
    """How long training stood still for it."""


class PhaseChange(Record):
    """Rank 0 declares what the generation does from now on."""

    kind: Literal["phase"] = "phase"
    generation: Annotated[int, Field(ge=1)]
    phase: Phase
    step: Annotated[int, Field(ge=-1)] = -1


class RewindRequest(Record):
    """Training wants to go back to the newest commit that is no newer than `to_step`; to the beginning where there is
    none."""

    kind: Literal["rewind"] = "rewind"
    generation: Annotated[int, Field(ge=1)]
    from_step: Count
    to_step: Count
    reason: Text
    skip: Skipped | None = None
    """With these raw positions left out,"""
    slower: bool = False
    """and from there on at half of the learning rate."""


class SkipRequest(Record):
    """Training wants positions [first, last) left out."""

    kind: Literal["skip"] = "skip"
    generation: Annotated[int, Field(ge=1)]
    first: Count
    last: Count
    reason: Text


class Note(Record):
    """An event for people, from a trainer or agent: written to events.jsonl."""

    kind: Literal["note"] = "note"
    generation: Count = 0
    name: Annotated[str, Field(max_length=63)]
    message: Text
    numbers: Numbers = {}


class Finished(Record):
    """All trainers of this node ended with success; the agent waits for the verdict."""

    kind: Literal["finished"] = "finished"
    generation: Annotated[int, Field(ge=1)]


class Leave(Record):
    """The agent announces the end of its own node. It may speak for no other."""

    kind: Literal["leave"] = "leave"
    reason: Text
    within_seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """It does not end yet, but in so many seconds, and would hand over before. None: now."""


class LeaderSilence(Record):
    """From a witness, each `BEAT_SECONDS`: for how long its agent has heard nothing of a leader."""

    kind: Literal["leader-silence"] = "leader-silence"
    seconds: Annotated[float, Field(ge=0)]


# ---- coordinator to agent and controller ------------------------------------------------------------------------


class Welcome(Record):
    """Answer to `Hello`."""

    kind: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL
    run: Name
    term: Annotated[int, Field(ge=1)]
    takes: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Kinds of orders that it takes and that older versions do not."""


class Standby(Record):
    """Answer to `Hello` of a coordinator that does not lead. A witness stays, and is sent a `Welcome` once it does."""

    kind: Literal["standby"] = "standby"
    run: Name


class Assign(Record):
    """The generation that the agent now belongs to."""

    kind: Literal["assign"] = "assign"
    seat: Seat
    join: Annotated[int, Field(ge=1)]
    """The `Join.sequence` that it answers."""


class Restart(Record):
    """Generation `generation` is over for this node: stop the workers and join again."""

    kind: Literal["restart"] = "restart"
    generation: Annotated[int, Field(ge=1)]
    reason: Text


class StopOrder(Record):
    """To the trainers: park at a step boundary and commit before the deadline."""

    kind: Literal["stop"] = "stop"
    generation: Annotated[int, Field(ge=1)]
    reason: Text
    deadline_seconds: float


class Committed(Record):
    """The checkpoint of `step` stands in the log; its parts need not be reported again."""

    kind: Literal["committed"] = "committed"
    generation: Annotated[int, Field(ge=1)]
    step: Count


class VerdictWord(StrEnum):
    """What a node whose workers are done is to do."""

    GO = "go"
    REDO = "redo"


class Verdict(Record):
    """Answer to `Finished`; until it comes, wait."""

    kind: Literal["verdict"] = "verdict"
    generation: Annotated[int, Field(ge=1)]
    say: VerdictWord


class Closed(Record):
    """The run is over or stopped: stop the workers and exit with `exit_code`."""

    kind: Literal["closed"] = "closed"
    reason: Text
    exit_code: Annotated[int, Field(ge=0, le=255)]


class Ack(Record):
    """The message with this number is safe in the journal or log; 0 answers a beat."""

    kind: Literal["ack"] = "ack"
    sequence: Count


class StatusAnswer(Record):
    """The document of `status.json`, and which nodes are counted."""

    kind: Literal["status"] = "status"
    status: dict[str, object]
    active: tuple[Name, ...] = ()
    spare: tuple[Name, ...] = ()
    closed: str | None = None
    """Why the run is over or stopped, once it is."""
    coordinators: tuple[Name, ...] = ()
    """The one that answers, and those that stand by and have asked lately."""


FromAgent = (
    Hello
    | Beat
    | Join
    | Steps
    | Trouble
    | Part
    | PhaseChange
    | RewindRequest
    | SkipRequest
    | Note
    | Finished
    | Leave
    | LeaderSilence
    | StopRun
    | Size
    | Places
    | Warnings
    | Drill
    | PiecesQuestion
    | Reaped
    | Inspected
    | StatusQuestion
)
FromCoordinator = (
    Welcome
    | Standby
    | Assign
    | Pieces
    | Restart
    | StopOrder
    | Committed
    | Verdict
    | Closed
    | Ack
    | StatusAnswer
    | Inspect
    | Prove
    | Drill
)
Report = Steps | Trouble | Part | PhaseChange | RewindRequest | SkipRequest | Note | Finished | Leave
"""Messages that must arrive: numbered, repeated on a new stream until acknowledged."""

FROM_AGENT: TypeAdapter[FromAgent] = TypeAdapter(Annotated[FromAgent, Field(discriminator="kind")])
FROM_COORDINATOR: TypeAdapter[FromCoordinator] = TypeAdapter(Annotated[FromCoordinator, Field(discriminator="kind")])


def understood(body: dict[str, object]) -> FromCoordinator | None:
    """What the coordinator says; None where a newer one says more than this version knows, which is passed over."""
    try:
        return FROM_COORDINATOR.validate_python(body)
    except ValidationError:
        return None
