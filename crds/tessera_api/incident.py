"""An incident: a generation that ended unplanned. The form of `incidents/NNNN.json`; times are Unix seconds."""

from __future__ import annotations

from tessera_api.record import Record


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
    passed_highest: float | None = None
    """When training got beyond the highest step before."""
