"""What a controller says to a coordinator after its `Hello` (messages.py): orders that stand, and a question.

Orders are idempotent and told again on every new stream. A coordinator names in `Welcome.takes` those that older
versions do not know.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera_api.log import MAX_NODES
from tessera_api.record import Name, Record, Text


class StopRun(Record):
    """Park at a step boundary, commit if the deadline allows, exit."""

    kind: Literal["stop-run"] = "stop-run"
    reason: Text
    deadline_seconds: Annotated[float, Field(ge=0, le=86400)]


class Size(Record):
    """How many nodes the run is to have from now on; it grows or shrinks at a step boundary, with a commit."""

    kind: Literal["size"] = "size"
    count: Annotated[int, Field(ge=1, le=MAX_NODES)]
    min: Annotated[int, Field(ge=1, le=MAX_NODES)]
    leaving: Annotated[tuple[Name, ...], Field(max_length=MAX_NODES)] = ()
    """Nodes that are to train no more, and will be ended once they do not."""


class Place(Record):
    """Where a node is."""

    node: Name
    at: Annotated[str, Field(max_length=63)]
    """The value of the topology label of its machine; empty where there is none."""


class Places(Record):
    """Where the nodes are: a generation's ranks are ordered by it, so that neighbours in rank are neighbours there."""

    kind: Literal["places"] = "places"
    places: Annotated[tuple[Place, ...], Field(max_length=MAX_NODES)]


class WarnedNode(Record):
    """A node whose machine is about to end, or has sick devices."""

    node: Name
    reason: Text
    within_seconds: Annotated[float, Field(ge=0, le=86_400)]
    """So long it may be used still."""
    sick: bool = False


class Warnings(Record):
    """The nodes that are to hand over, where the others are enough, before they end or fail; all that there are: one
    that is not named any more is as good as any other."""

    kind: Literal["warnings"] = "warnings"
    nodes: Annotated[tuple[WarnedNode, ...], Field(max_length=MAX_NODES)]


class Reaped(Record):
    """The supervisor of a node's process has seen it end: a second source, so the node need not be waited for."""

    kind: Literal["reaped"] = "reaped"
    node: Name
    agent_pid: Annotated[int, Field(ge=1)]
    code: int
    """Exit code, or minus the signal."""


class StatusQuestion(Record):
    """Asks for `StatusAnswer`."""

    kind: Literal["status?"] = "status?"
