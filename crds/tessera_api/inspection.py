"""What a coordinator asks of a node whose trainers compute nothing any more, and what that says (messages.py)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera_api.record import Count, Record


class Inspect(Record):
    """To an agent: what are the trainers of this generation doing? They are about to be stopped."""

    kind: Literal["inspect"] = "inspect"
    generation: Annotated[int, Field(ge=1)]


class RankSeen(Record):
    """One trainer at that moment."""

    rank: Count
    state: Annotated[str, Field(max_length=16)]
    """The kernel's word for its process: running, sleeping, stuck, stopped, gone."""
    collective: bool = False
    """Its main thread waits for other ranks."""
    reading: bool = False
    """Its main thread waits for data, or for the storage."""
    at: Annotated[str, Field(max_length=300)] = ""
    """The innermost line of its main thread outside the libraries: file, line, function; empty: it did not say."""


class Inspected(Record):
    """From an agent."""

    kind: Literal["inspected"] = "inspected"
    generation: Annotated[int, Field(ge=1)]
    ranks: Annotated[tuple[RankSeen, ...], Field(max_length=64)]
