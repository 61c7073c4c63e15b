"""What the state machines ask of the server. Values only; the server carries them out in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import EventName
from tessera_api.log import Member, StoreAddress
from tessera_api.messages import FromCoordinator
from tessera_coordinator.core.causes import Evidence
from tessera_coordinator.core.kept import Held
from tessera_coordinator.core.ladder import Ruling


@dataclass(frozen=True)
class Send:
    """Put a message on a node's stream; without a stream it is dropped, since all messages are level-based."""

    node: str
    message: FromCoordinator


@dataclass(frozen=True)
class Announce:
    """Write an event to the journal and to events.jsonl."""

    name: EventName
    message: str
    node: str | None = None
    generation: int = 0
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenGeneration:
    """Write an `open` entry for these members; answer with `Membership.opened` or `Membership.not_opened`."""

    generation: int
    members: tuple[Member, ...]
    store: StoreAddress
    fingerprint: str
    reason: str
    held: tuple[Held, ...] = ()
    """What its members have in memory."""


@dataclass(frozen=True)
class GenerationOver:
    """The generation has ended without having finished: incidents and ledger are told."""

    generation: int
    cause: str
    nodes: tuple[str, ...]
    planned: bool


@dataclass(frozen=True)
class Judged:
    """What a generation ended of, what is done about it, and all that was seen: the incident is told. `now`: of the
    clock that the findings' times are of."""

    generation: int
    ruling: Ruling
    findings: tuple[Evidence, ...]
    now: float


@dataclass(frozen=True)
class Resized:
    """The run is to have so many nodes from now on: a later coordinator must know."""

    count: int
    min: int


@dataclass(frozen=True)
class Complete:
    """All members are done: write the `end` entry, then `Membership.close`."""

    generation: int


@dataclass(frozen=True)
class Fail:
    """The run cannot go on: write the `end` entry with this remedy, then `Membership.close`."""

    message: str


@dataclass(frozen=True)
class Close:
    """Tell everybody that it is over, and exit."""

    reason: str
    exit_code: ExitCode


Effect = Send | Announce | OpenGeneration | GenerationOver | Judged | Resized | Complete | Fail | Close
