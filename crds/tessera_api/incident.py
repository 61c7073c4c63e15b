"""An incident: a generation that ended unplanned. The form of `incidents/NNNN.json`; times are Unix seconds."""

from __future__ import annotations

from tessera_api.failure import FailureClass, Rung
from tessera_api.record import Record


class Finding(Record):
    """One thing that was seen of an incident."""

    kind: str
    time: float
    """Unix seconds, as far as is known."""
    node: str | None = None
    rank: int | None = None
    place: str = ""
    """File, line and type of an error, an exit code or a signal."""
    words: str = ""
    log: str = ""
    """A traceback, stacks, or the end of what the rank printed."""


class Incident(Record):
    """What was lost, when it was noticed, and when training went on."""

    number: int
    cause: str
    nodes: tuple[str, ...]
    detected: float
    generation_before: int
    highest_step_before: int
    signal_time: float | None = None
    """When whoever hurt the run did so, where that is known (drills, the demo)."""
    generation_after: int | None = None
    opened: float | None = None
    next_step: float | None = None
    """The first optimizer step completed in a newer generation."""
    first_step_after: int | None = None
    steps_lost: int | None = None
    """Steps computed before the incident that had to be computed again."""
    failure: FailureClass | None = None
    """Its class; None until it is judged, when the next generation can be opened."""
    place: str = ""
    """Where it happened: the same place is taken for the same cause."""
    node: str | None = None
    rank: int | None = None
    action: Rung | None = None
    """What was done about it."""
    words: str = ""
    """The first cause, in words."""
    passed_highest: float | None = None
    """When training got beyond the highest step before."""
