"""What an agent says of a trainer that failed (messages.py)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from tessera_api.record import Count, Record, Text


class TroubleKind(StrEnum):
    """How a trainer ended or got stuck."""

    COLLECTIVE = "collective error"
    """A peer broke the collective. Secondary: says that somebody else is gone."""
    STORAGE = "storage"
    """The storage was out for longer than the trainer waits. Never counted: the next try may go well."""
    EXCEPTION = "exception"
    EXIT = "exit"
    """The process ended with a code or by a signal, without a word."""


class Trouble(Record):
    """A trainer of this node failed."""

    kind: Literal["trouble"] = "trouble"
    generation: Annotated[int, Field(ge=1)]
    what: TroubleKind
    rank: Count
    place: Annotated[str, Field(max_length=300)] = ""
    """File, line and exception type of the traceback's last line; same place, same cause."""
    message: Text = ""
    log: Annotated[str, Field(max_length=4000)] = ""
    """Its whole traceback, or the end of what it printed."""

    def in_words(self) -> str:
        """For people."""
        return f"rank {self.rank}: {self.what.value}: {self.place}: {self.message}"[:2000]
