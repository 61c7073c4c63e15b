"""A node's seat in a generation: of the log's `open` entry what this node has to know, so that a generation of
thousands is handed out in little.

The entry itself names every member and every part of the point that it begins from. A seat has the node's own place;
of the parts those of its own ranks, and all where they are few. The others are asked for by number, a page at a time.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera_api.log import MAX_NODES, MAX_OBJECTS, KeeperAddress, Rewound, Skipped, StoreAddress, StoredObject
from tessera_api.record import Count, Name, Record

GIVEN = 64
"""Parts that come with a seat: all, where there are no more; at most as many as a node has ranks."""
PAGE = 256
"""Parts in one answer."""


class Holder(Record):
    """A member that holds a part in memory, and where its keeper listens."""

    node: Name
    host: Annotated[str, Field(max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]


class Piece(Record):
    """One object of the point that a generation begins from."""

    object: StoredObject
    holder: Holder | None = None
    """None: it is in the storage."""


class Beginning(Record):
    """Where a generation begins: `log.ResumePoint`, as it is handed out."""

    step: Count
    position: Count
    pieces: Annotated[int, Field(ge=0, le=MAX_OBJECTS)]
    """How many objects there are."""
    in_memory: bool = False
    """Members hold them; otherwise they are a commit's, and in the storage."""
    folder: Annotated[str, Field(max_length=500)] = ""
    """Where they lie, or would lie, in the storage."""
    first: Count = 0
    given: Annotated[tuple[Piece, ...], Field(max_length=GIVEN)] = ()
    """The objects from number `first` on."""


class Seat(Record):
    """See the module."""

    term: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    digest: Annotated[str, Field(max_length=16)]
    """Of the whole entry."""
    nonce: Annotated[str, Field(max_length=32)]
    place: Count
    """Node rank."""
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)]
    ranks: Annotated[int, Field(ge=1)]
    """Of all nodes."""
    store: StoreAddress
    neighbour: KeeperAddress | None = None
    """Who holds the copies of this node's snapshots; None: nobody."""
    resume: Beginning | None = None
    skips: Annotated[tuple[Skipped, ...], Field(max_length=10000)] = ()
    rewinds: Annotated[tuple[Rewound, ...], Field(max_length=10000)] | None = None


class PiecesQuestion(Record):
    """A node wants the objects from number `first` on: a page of them."""

    kind: Literal["pieces?"] = "pieces?"
    generation: Annotated[int, Field(ge=1)]
    first: Count


class Pieces(Record):
    """The answer; empty beyond the last."""

    kind: Literal["pieces"] = "pieces"
    generation: Annotated[int, Field(ge=1)]
    first: Count
    pieces: Annotated[tuple[Piece, ...], Field(max_length=PAGE)]
