"""The run's log: which entries exist and what each one says (design.md §2.0).

Owns the form of `log/00000042`. The rules that tie entries together are the fold in `tessera_coordinator.core.history`;
the race for a number is `tessera_coordinator.run_log`. An entry, once written, is never changed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tessera_api.record import Count, Name, Record, Sha256, Text

MAX_NODES = 16_384
MAX_OBJECTS = 65536


class StoreAddress(Record):
    """Where the generation's TCPStore listens: on the node that comes first in the member list."""

    host: Annotated[str, Field(max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]


class KeeperAddress(Record):
    """Where a node's snapshots are read, and copies of others' taken."""

    host: Annotated[str, Field(max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]


class Member(Record):
    """A node of a generation. Its place in `Open.members` is its node rank."""

    node: Name
    incarnation: Annotated[str, Field(max_length=32)]
    """Drawn anew by each agent process: the same name with another incarnation is another node."""
    processes: Annotated[int, Field(ge=1, le=64)]
    keeper: KeeperAddress | None = None
    """None where not all members have one: an older version's do not."""


class StoredObject(Record):
    """An object that a commit names; a checkpoint is complete when all of them are there with these bytes."""

    name: Annotated[str, Field(max_length=500)]
    size: Count
    sha256: Sha256


class ResumePoint(Record):
    """What every rank of a generation starts from. It is handed out; no rank lists storage."""

    step: Count
    position: Count
    """Data position: how many samples of the order have been consumed."""
    objects: Annotated[tuple[StoredObject, ...], Field(max_length=MAX_OBJECTS)]
    holders: Annotated[tuple[Name, ...], Field(max_length=MAX_OBJECTS)] | None = None
    """Which member holds each of the objects in memory. None: they are a commit's, and in the storage."""


class Skipped(Record):
    """Positions [first, last) of the data order that are not trained on."""

    first: Count
    last: Count


class Rewound(Record):
    """Training went back from `from_step` to the commit of `to_step`."""

    to_step: Count
    from_step: Count
    slower: bool = False


class Claim(Record):
    """A coordinator begins. Whoever sees a higher term than its own ends itself."""

    kind: Literal["claim"] = "claim"
    term: Annotated[int, Field(ge=1)]
    holder: Annotated[str, Field(max_length=200)]
    slot: Annotated[str | None, Field(max_length=16)] = None
    """Which of the run's coordinators it is; None where there is one."""
    time: float


class Open(Record):
    """A generation begins: these nodes, in this order, from this point."""

    kind: Literal["open"] = "open"
    term: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    start: Annotated[int, Field(ge=1)] = 1
    """Which start of the run (creation or resume) it belongs to; a coordinator restarted within a start goes on with
    it."""
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=MAX_NODES)]
    store: StoreAddress
    nonce: Annotated[str, Field(max_length=32)]
    """Part of every object name that this generation writes, so that no name is ever written twice."""
    resume: ResumePoint | None = None
    skips: Annotated[tuple[Skipped, ...], Field(max_length=10000)] = ()
    rewinds: Annotated[tuple[Rewound, ...], Field(max_length=10000)] | None = None
    """How the run went back before, oldest first; None: never."""
    images: dict[str, str] = {}
    """Image digests, by container; empty for a local run."""
    fingerprint: str | None = None
    """Of the numerics (device or instruction set, libraries); exact mode refuses a member that differs."""
    reason: Text = ""
    time: float

    def world_size(self) -> int:
        """How many ranks the generation has."""
        return sum(member.processes for member in self.members)

    def committed_step(self) -> int:
        """The step of the commit that it begins from; -1: it begins from none."""
        return self.resume.step if self.resume is not None and self.resume.holders is None else -1

    def in_words(self) -> str:
        """For people: who, and from where on."""
        begin = "from the beginning"
        if self.resume is not None:
            begin = f"from step {self.resume.step}, {'stored' if self.resume.holders is None else 'held in memory'}"
        return f"{', '.join(self.names())}; {begin}"

    def names(self) -> tuple[str, ...]:
        """The members' names in order of node rank."""
        return tuple(member.node for member in self.members)


class Commit(Record):
    """A checkpoint exists: written after every rank of the generation has reported its parts."""

    kind: Literal["commit"] = "commit"
    term: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    step: Count
    position: Count
    objects: Annotated[tuple[StoredObject, ...], Field(max_length=MAX_OBJECTS)]
    time: float


class Rewind(Record):
    """Training goes back to the commit of `to_step`; what lies after it is lost work."""

    kind: Literal["rewind"] = "rewind"
    term: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    to_step: Count
    from_step: Count
    reason: Text
    skip: Skipped | None = None
    """These raw positions are left out from now on; none of them was consumed up to `to_step`."""
    slower: bool = False
    """From `to_step` on the learning rate is half of what it was."""
    time: float


class Skip(Record):
    """Positions [first, last) are left out from now on."""

    kind: Literal["skip"] = "skip"
    term: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    first: Count
    last: Count
    reason: Text
    time: float


class Retire(Record):
    """The commits of these steps are given up; their objects may be deleted from now on."""

    kind: Literal["retire"] = "retire"
    term: Annotated[int, Field(ge=1)]
    steps: Annotated[tuple[Count, ...], Field(min_length=1, max_length=10000)]
    time: float


class End(Record):
    """The run is over. Nothing follows."""

    kind: Literal["end"] = "end"
    term: Annotated[int, Field(ge=1)]
    reason: Literal["complete", "failed"]
    message: Text
    time: float


Entry = Annotated[Claim | Open | Commit | Rewind | Skip | Retire | End, Field(discriminator="kind")]
ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


def parse_entry(data: bytes) -> Entry:
    """The entry that `data` holds. Raises pydantic.ValidationError, whose text names the field."""
    return ENTRY.validate_json(data)


def object_name(number: int) -> str:
    """The name of entry `number`, counted from 1, below the log's prefix."""
    return f"{number:08d}"
