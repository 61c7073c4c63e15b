"""What a coordinator asks of a node whose trainers compute nothing any more, and what that says (messages.py)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera_api.record import Count, Record, Text


class Inspect(Record):
    """To an agent: what are the trainers of this generation doing? They are about to be stopped."""

    kind: Literal["inspect"] = "inspect"
    generation: Annotated[int, Field(ge=1)]


class Prove(Record):
    """To an agent: the offer of this number is not taken; prove the node in full, then offer it anew."""

    kind: Literal["prove"] = "prove"
    join: Annotated[int, Field(ge=1)]
    reason: Text = ""


class Collective(Record):
    """A collective that was begun, of those of its group."""

    group: Annotated[str, Field(max_length=100)]
    number: Count
    """From 1 on; the same for all ranks of the group."""
    operation: Annotated[str, Field(max_length=100)]
    """Name, types, sizes."""

    def words(self) -> str:
        """For people."""
        return f"{self.operation}, number {self.number} of {self.group}"


class RankSeen(Record):
    """One trainer at that moment."""

    rank: Count
    state: Annotated[str, Field(max_length=16)]
    """The kernel's word for its process: running, sleeping, stuck, stopped, gone."""
    collective: bool = False
    """Its main thread waits for other ranks."""
    waits_in: Collective | None = None
    """In which collective, as torch's flight recorder has it."""
    reading: bool = False
    """Its main thread waits for data, or for the storage."""
    at: Annotated[str, Field(max_length=300)] = ""
    """The innermost line of its main thread outside the libraries: file, line, function; empty: it did not say."""
    stack: Annotated[str, Field(max_length=4000)] = ""
    """Of its main thread, innermost line first."""
    log: Annotated[str, Field(max_length=2000)] = ""
    """The end of what it had printed."""


class Inspected(Record):
    """From an agent."""

    kind: Literal["inspected"] = "inspected"
    generation: Annotated[int, Field(ge=1)]
    ranks: Annotated[tuple[RankSeen, ...], Field(max_length=64)]
