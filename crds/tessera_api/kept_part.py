"""A part of a snapshot that a node holds in memory."""

from __future__ import annotations

from typing import NamedTuple

from tessera_api.log import StoredObject
from tessera_api.record import Count, Record

MAX_KEPT = 512
"""In one offer: a node's own and those of another, of a few steps each."""


class KeptPart(Record):
    """One whole part, under the name that it has, or would have, in the storage."""

    position: Count
    """Data position of its step."""
    object: StoredObject


class Keeps(NamedTuple):
    """What a node offers beside itself: fields of `messages.Join`."""

    keeper_port: int | None = None
    kept: tuple[KeptPart, ...] | None = None


NOTHING = Keeps()
