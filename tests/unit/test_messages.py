"""The contract between programs: every message, log entry and journal record comes back from JSON as it was, ignores
what the next version adds, and is bounded."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from tessera_api.checkpoint import CheckpointPrefix, parse_prefix, part_name
from tessera_api.drill import Drill, Fault
from tessera_api.incident import Finding, Incident
from tessera_api.inspection import Collective, Inspect, Inspected, Prove, RankSeen
from tessera_api.journal import (
    JOURNAL_RECORD,
    DrillLine,
    Event,
    EventName,
    EvidenceLine,
    IncidentLine,
    JournalRecord,
    LedgerLine,
    SizeLine,
    StepLine,
)
from tessera_api.log import (
    ENTRY,
    MAX_NODES,
    MAX_OBJECTS,
    Claim,
    Commit,
    End,
    Entry,
    KeeperAddress,
    Member,
    Open,
    ResumePoint,
    Retire,
    Rewind,
    Rewound,
    Skip,
    Skipped,
    StoreAddress,
    StoredObject,
    parse_entry,
)
from tessera_api.messages import (
    FROM_AGENT,
    FROM_COORDINATOR,
    MAX_NUMBERS,
    Ack,
    Assign,
    Beat,
    Closed,
    Committed,
    Finished,
    FromAgent,
    FromCoordinator,
    Hello,
    Holding,
    Join,
    LeaderSilence,
    Leave,
    Note,
    Part,
    Phase,
    PhaseChange,
    Processes,
    Restart,
    RewindRequest,
    Role,
    SkipRequest,
    Standby,
    StatusAnswer,
    StepRecord,
    Steps,
    StopOrder,
    Verdict,
    VerdictWord,
    Welcome,
)
from tessera_api.orders import Place, Places, Reaped, Size, StatusQuestion, StopRun, WarnedNode, Warnings
from tessera_api.record import Record
from tessera_api.seat import PAGE, Beginning, Holder, Piece, Pieces, PiecesQuestion, Seat
from tessera_api.trouble import Trouble, TroubleKind
from tessera_api.wire import FRAME_LIMITS, HEADER_BYTES, NONCE_BYTES, Channel, Envelope, Side

SHA = "0123456789abcdef" * 4
STORE = StoreAddress(host="10.0.0.1", port=29500)
MEMBERS = (Member(node="node-0", incarnation="a1", processes=8), Member(node="node-1", incarnation="b2", processes=8))
OBJECT = StoredObject(name="checkpoints/00000005-1.2-ab/rank-00000-of-00001.safetensors", size=12, sha256=SHA)
RESUME = ResumePoint(step=5, position=320, objects=(OBJECT,))
OPEN = Open(
    term=1,
    generation=2,
    start=3,
    members=MEMBERS,
    store=STORE,
    nonce="ab",
    resume=RESUME,
    skips=(Skipped(first=3, last=9),),
    images={"trainer": "sha256:" + SHA},
    fingerprint="avx512/4/abc",
    reason="first",
    time=1.5,
)
HOLDING = Holding(term=1, generation=2, digest="00ff", collective_error=True)
COLLECTIVE = Collective(group="default_pg", number=51, operation="all_reduce Float[3, 5]")
PIECE = Piece(object=OBJECT, holder=Holder(node="node-1", host="10.0.0.2", port=7000))
SEAT = Seat(
    term=1,
    generation=2,
    digest="00ff",
    nonce="ab",
    place=1,
    nodes=2,
    ranks=3,
    store=STORE,
    neighbour=KeeperAddress(host="10.0.0.1", port=7000),
    resume=Beginning(step=5, position=320, pieces=9, in_memory=True, folder="a", first=4, given=(PIECE,)),
    skips=(Skipped(first=3, last=9),),
    rewinds=(Rewound(to_step=5, from_step=9, slower=True),),
)
MANY = {str(number): 1.0 for number in range(MAX_NUMBERS + 1)}
FACTS = Processes(agent_pid=10, worker_pids=(11, 12), sessions=(10, 11))

MESSAGES: list[FromAgent | FromCoordinator] = [
    Hello(role=Role.AGENT, node="node-0", incarnation="a1", holding=HOLDING, term_seen=4),
    Beat(generation=2, step=4, step_age=0.5, units=7, phase=Phase.TRAIN, processes=FACTS),
    Join(sequence=2, store_port=5000, left=HOLDING, fingerprint="cpu", processes=FACTS),
    Steps(generation=2, records=(StepRecord(step=1, tokens=9, loss=float("inf"), time=2.5, numbers={"lr": 1e-3}),)),
    Trouble(generation=2, what=TroubleKind.EXCEPTION, rank=3, place="train.py:3 KeyError", message="'x'"),
    Part(generation=2, rank=1, step=5, position=320, objects=(OBJECT,), seconds=0.5, stall_seconds=0.1),
    PhaseChange(generation=2, phase=Phase.PARKED, step=5),
    RewindRequest(generation=2, from_step=9, to_step=5, reason="spike"),
    SkipRequest(generation=2, first=3, last=9, reason="spike"),
    Note(generation=2, name="Warm", message="forked", numbers={"seconds": 0.1}),
    Finished(generation=2),
    Leave(reason="drained"),
    StopRun(reason="Ctrl-C", deadline_seconds=30),
    Reaped(node="node-0", agent_pid=10, code=-9),
    StatusQuestion(),
    Welcome(run="tiny", term=1),
    Assign(seat=SEAT, join=2),
    Restart(generation=2, reason="node-1 is lost"),
    StopOrder(generation=2, reason="growth", deadline_seconds=60),
    Committed(generation=2, step=5),
    Verdict(generation=2, say=VerdictWord.REDO),
    Closed(reason="complete", exit_code=0),
    Ack(sequence=3),
    StatusAnswer(status={"phase": "Running", "activeNodes": 2}, active=("node-0",), spare=("node-1",), closed="over"),
    LeaderSilence(seconds=2.5),
    Standby(run="tiny"),
    Size(count=3, min=2, leaving=("node-2",)),
    Inspect(generation=2),
    Drill(identity="a1", fault=Fault.NODE_STOP, node="node-0", seconds=5),
    Prove(join=2, reason="WorkerCrash"),
    Inspected(generation=2, ranks=(RankSeen(rank=1, state="stopped", at="loop.py:7 train"),)),
    Places(places=(Place(node="node-0", at="rack-7"),)),
    Warnings(nodes=(WarnedNode(node="node-0", reason="a taint", within_seconds=120, sick=True),)),
    PiecesQuestion(generation=2, first=256),
    Pieces(generation=2, first=256, pieces=(PIECE, Piece(object=OBJECT))),
    Inspected(generation=2, ranks=(RankSeen(rank=1, state="sleeping", collective=True, waits_in=COLLECTIVE),)),
]
ENTRIES: list[Entry] = [
    Claim(term=1, holder="here", time=1.0),
    OPEN,
    Commit(term=1, generation=2, step=5, position=320, objects=(OBJECT,), time=2.0),
    Rewind(term=1, generation=2, to_step=5, from_step=9, reason="spike", time=3.0),
    Skip(term=1, generation=2, first=3, last=9, reason="spike", time=3.0),
    Retire(term=1, steps=(1, 2), time=4.0),
    End(term=1, reason="complete", message="done", time=5.0),
]
RECORDS: list[JournalRecord] = [
    Event(time=1.0, name=EventName.NODE_LOST, generation=2, term=1, node="node-1", message="gone", numbers={"s": 0.5}),
    StepLine(time=1.0, step=4, tokens=99, loss=2.5, grad_norm=0.5, generation=2, world_size=16, numbers={"custom": 1}),
    LedgerLine(time=1.0, seconds={"compute": 12.5}),
    IncidentLine(
        incident=Incident(
            number=1, cause="lost", nodes=("a",), detected=1.0, generation_before=1, highest_step_before=5
        )
    ),
    EvidenceLine(number=1, findings=(Finding(kind="a node was lost", time=1.0, node="a", words="no beat"),)),
    DrillLine(time=1.0, drill=Drill(identity="a1", fault=Fault.WORKER_KILL, node="node-0")),
    SizeLine(time=1.0, start=2, count=3, min=1),
]


def kinds(union: Any) -> set[type[Record]]:
    """The members of a union, which may be wrapped in Annotated."""
    members = get_args(union)
    return set(members if all(isinstance(member, type) for member in members) else get_args(members[0]))


def carried(message: Record) -> dict[str, object]:
    """What the other end of a stream gets."""
    sender, receiver = (
        Channel(b"k", bytes(NONCE_BYTES), bytes(NONCE_BYTES), side) for side in (Side.SERVER, Side.CLIENT)
    )
    frame = sender.seal(Envelope(1, 2, 3, message.model_dump(mode="json", exclude_none=True)))
    return receiver.open(frame[:HEADER_BYTES], frame[HEADER_BYTES:]).body


def reader(message: FromAgent | FromCoordinator) -> TypeAdapter[Any]:
    return FROM_AGENT if isinstance(message, get_args(FromAgent)) else FROM_COORDINATOR


def test_there_is_an_example_of_everything() -> None:
    assert {type(message) for message in MESSAGES} == kinds(FromAgent) | kinds(FromCoordinator)
    assert {type(entry) for entry in ENTRIES} == kinds(Entry)
    assert {type(record) for record in RECORDS} == kinds(JournalRecord)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_from_the_wire_as_it_was(message: FromAgent | FromCoordinator) -> None:
    assert reader(message).validate_python(carried(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_ignores_what_the_next_version_adds(message: FromAgent | FromCoordinator) -> None:
    assert reader(message).validate_python({**carried(message), "addedLater": [1]}) == message


def test_a_loss_that_is_no_number_travels() -> None:
    steps = Steps(generation=1, records=(StepRecord(step=1, tokens=1, loss=float("nan"), time=1.0),))

    body = carried(steps)

    loss = Steps.model_validate(body).records[0].loss
    assert math.isnan(loss)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_an_entry_comes_back_from_its_canonical_bytes(entry: Entry) -> None:
    assert parse_entry(entry.canonical()) == entry


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_an_entry_ignores_what_the_next_version_adds(entry: Entry) -> None:
    later = {**json.loads(entry.canonical()), "addedLater": {"deep": 1}}

    assert ENTRY.validate_python(later) == entry


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_journal_record_comes_back_and_ignores_what_the_next_version_adds(record: JournalRecord) -> None:
    document = json.loads(record.canonical())

    assert JOURNAL_RECORD.validate_python(document) == record
    assert JOURNAL_RECORD.validate_python({**document, "addedLater": None}) == record


def test_the_same_value_has_the_same_digest_and_another_value_another() -> None:
    again = Open.model_validate(OPEN.model_dump())

    assert again.short_hash() == OPEN.short_hash()
    assert OPEN.model_copy(update={"nonce": "ac"}).short_hash() != OPEN.short_hash()


def test_a_generation_knows_its_world() -> None:
    assert (OPEN.world_size(), OPEN.names()) == (16, ("node-0", "node-1"))


@pytest.mark.parametrize(
    ("message", "change", "field"),
    [
        (MESSAGES[0], {"node": ""}, "node"),
        (MESSAGES[0], {"node": "n" * 64}, "node"),
        (MESSAGES[0], {"role": "king"}, "role"),
        (MESSAGES[0], {"processes": 0}, "processes"),
        (MESSAGES[0], {"term_seen": -1}, "term_seen"),
        (MESSAGES[1], {"step": -2}, "step"),
        (MESSAGES[1], {"phase": "lunch"}, "phase"),
        (MESSAGES[1], {"processes": {"agent_pid": 0}}, "agent_pid"),
        (MESSAGES[2], {"store_port": 65536}, "store_port"),
        (MESSAGES[3], {"records": [{"step": 1, "tokens": 1, "loss": 1, "time": 1}] * 1001}, "records"),
        (MESSAGES[3], {"records": [{"step": 1, "tokens": 1, "loss": 1, "time": 1, "numbers": MANY}]}, "numbers"),
        (MESSAGES[4], {"message": "x" * 2001}, "message"),
        (MESSAGES[5], {"objects": [OBJECT.model_dump()] * 65}, "objects"),
        (MESSAGES[5], {"objects": [{"name": "x", "size": 1, "sha256": "abc"}]}, "sha256"),
        (MESSAGES[9], {"numbers": MANY}, "numbers"),
        (MESSAGES[9], {"numbers": {"n" * 41: 1.0}}, "numbers"),
        (MESSAGES[12], {"deadline_seconds": -1}, "deadline_seconds"),
        (MESSAGES[21], {"exit_code": 256}, "exit_code"),
        (MESSAGES[24], {"seconds": -1}, "seconds"),
        (MESSAGES[26], {"count": 0}, "count"),
        (MESSAGES[26], {"leaving": ["n"] * (MAX_NODES + 1)}, "leaving"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_field(
    message: FromAgent | FromCoordinator, change: dict[str, object], field: str
) -> None:
    document = {**carried(message), **change}
    with pytest.raises(ValidationError, match=field):
        reader(message).validate_python(document)


def test_a_message_without_a_known_kind_is_refused() -> None:
    with pytest.raises(ValidationError):
        FROM_AGENT.validate_python({"kind": "tea"})


def test_what_a_node_is_told_of_the_largest_world_fits_into_a_frame() -> None:
    prefix = CheckpointPrefix(step=10**7, term=999, generation=99999, nonce="a" * 8)
    stored = StoredObject(name=part_name(prefix, MAX_OBJECTS - 1, MAX_OBJECTS), size=2**40, sha256=SHA)
    piece = Piece(object=stored, holder=Holder(node="n" * 63, host="h" * 253, port=65535))
    page = Pieces(generation=99999, first=MAX_OBJECTS - 1, pieces=(piece,) * PAGE)

    frame = json.dumps(page.model_dump(mode="json"), separators=(",", ":"))

    assert len(frame) < FRAME_LIMITS[Side.SERVER] / 10


def test_a_parts_name_says_whose_it_is() -> None:
    prefix = CheckpointPrefix(step=42, term=3, generation=7, nonce="0f")

    assert parse_prefix(part_name(prefix, 1, 4)) == prefix


@pytest.mark.parametrize("name", ["", "log/00000001", "checkpoints/5-1.1-aa/x", "x/checkpoints/00000005-1.1-aa/x"])
def test_other_objects_lie_in_no_checkpoint(name: str) -> None:
    assert parse_prefix(name) is None
