"""What a coordinator that begins knows of the run, on the machine of the one before it or on another."""

from __future__ import annotations

import math
from pathlib import Path

from tessera_api.incident import Incident
from tessera_api.journal import Event, EventName, IncidentLine, JournalRecord, LedgerLine, SizeLine, StepLine
from tessera_coordinator.journal import Journal, read
from tessera_coordinator.recollection import Recollection, recollect
from tessera_store import open_store


def step(number: int, loss: float = 2.5) -> StepLine:
    return StepLine(time=1.0, step=number, tokens=9, loss=loss, generation=1, world_size=4)


def incident(number: int, opened: float | None = None) -> Incident:
    lost = {"cause": "lost", "nodes": ("a",), "detected": 1.0, "generation_before": 1, "highest_step_before": 5}
    return Incident.model_validate({"number": number, "opened": opened, **lost})


SIZE = SizeLine(time=4.0, start=2, count=3, min=1)
TOLD: tuple[JournalRecord, ...] = (
    step(1),
    LedgerLine(time=1.0, seconds={"compute": 2.0}),
    IncidentLine(incident=incident(1)),
    IncidentLine(incident=incident(2)),
    IncidentLine(incident=incident(1, opened=7.0)),
    step(3),
    Event(time=2.0, name=EventName.NOTE, message="words"),
    LedgerLine(time=3.0, seconds={"compute": 5.0}),
    SIZE,
)


def test_of_what_is_repeated_the_newest_counts() -> None:
    assert recollect(TOLD) == Recollection(
        LedgerLine(time=3.0, seconds={"compute": 5.0}), (incident(1, opened=7.0), incident(2)), step(3), SIZE
    )


def test_the_best_step_is_that_of_any_generation_and_what_was_before_the_last_incident_is_told_apart() -> None:
    lost = incident(3).model_copy(update={"highest_step_before": 7})
    known = recollect((step(9), IncidentLine(incident=lost), step(8)))

    assert (known.best_step, known.best_before) == (8, 7)
    assert (recollect(()).best_step, recollect(()).best_before) == (-1, -1)


def test_a_run_that_has_just_begun_has_nothing_to_remember() -> None:
    assert recollect(()) == Recollection(None, (), None)


def test_what_an_older_version_left_in_the_run_directory_alone_is_kept() -> None:
    known = recollect(TOLD, (incident(1), incident(4)))

    assert known.incidents == (incident(1, opened=7.0), incident(2), incident(4))


def test_a_coordinator_on_another_machine_knows_what_was_shipped(tmp_path: Path) -> None:
    store = open_store((tmp_path / "storage").as_uri())
    journal = Journal(tmp_path / "one", store, 1)
    for record in TOLD:
        journal.append(record)
    journal.ship()
    journal.append(step(4))
    journal.close()

    moved, stayed = (recollect(read(store, tmp_path / place)) for place in ("another", "one"))

    assert moved == recollect(TOLD)
    assert stayed == recollect((*TOLD, step(4)))


def test_a_loss_that_is_no_number_is_remembered_as_such() -> None:
    newest = recollect((step(1), step(2, loss=float("nan")))).newest

    assert newest is not None
    assert math.isnan(newest.loss)
