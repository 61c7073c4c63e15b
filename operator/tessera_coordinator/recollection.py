"""What a coordinator that begins knows of the run: a fold over the journal of those before it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera_api.incident import Incident
from tessera_api.journal import DrillLine, IncidentLine, JournalRecord, LedgerLine, SizeLine, StepLine


@dataclass(frozen=True)
class Recollection:
    """The newest of what the journal repeats."""

    ledger: LedgerLine | None
    """Node-seconds by cause, and until when they were counted; None before the first line."""
    incidents: tuple[Incident, ...]
    """By number."""
    newest: StepLine | None
    """The last step that was told."""
    size: SizeLine | None = None
    """What the run was last told to have of nodes."""

    drills: tuple[DrillLine, ...] = ()
    """Those that were done."""

    @property
    def best_step(self) -> int:
        """The highest step that was ever reached, as far as is known; -1: none."""
        return max(self.best_before, self.newest.step if self.newest is not None else -1)

    @property
    def best_before(self) -> int:
        """The highest that was reached before the last incident: beyond it, the newest generation has made progress."""
        return max((incident.highest_step_before for incident in self.incidents), default=-1)


def recollect(records: Iterable[JournalRecord], known: Iterable[Incident] = ()) -> Recollection:
    """From the journal's records in order. `known` are incidents that an older version wrote into the run directory
    alone; what the journal says of them is newer."""
    ledger: LedgerLine | None = None
    newest: StepLine | None = None
    size: SizeLine | None = None
    drills: list[DrillLine] = []
    incidents = {incident.number: incident for incident in known}
    for record in records:
        match record:
            case LedgerLine():
                ledger = record
            case StepLine():
                newest = record
            case IncidentLine(incident=incident):
                incidents[incident.number] = incident
            case SizeLine():
                size = record
            case DrillLine():
                drills.append(record)
            case _:
                pass
    told = tuple(incidents[number] for number in sorted(incidents))
    return Recollection(ledger, told, newest, size, tuple(drills))
