"""Who waits for the journal to be safe: told once it is, kept while the storage is away, never without end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tessera_api.incident import Finding
from tessera_api.journal import EvidenceLine
from tessera_api.run_directory import RunDirectory
from tessera_coordinator import records
from tessera_coordinator.journal import Journal
from tessera_coordinator.live_files import LiveFiles
from tessera_coordinator.records import Records
from tessera_store import StoreUnavailable, open_store


class Away(Journal):
    """A journal whose storage may be away."""

    away = True

    def ship(self) -> int:
        if self.away:
            raise StoreUnavailable("away")
        return super().ship()


@pytest.fixture
def journal(tmp_path: Path) -> Away:
    return Away(tmp_path, open_store((tmp_path / "storage").as_uri()), 1)


def test_who_waits_is_told_once_the_storage_is_back_and_once_only(tmp_path: Path, journal: Away) -> None:
    kept, told = Records(journal, LiveFiles(RunDirectory(tmp_path))), list[int]()
    kept.when_safe(lambda: told.append(1))
    asyncio.run(kept.keep_safe())
    assert told == []

    journal.away = False
    kept.when_safe(lambda: told.append(2))
    asyncio.run(kept.keep_safe())
    asyncio.run(kept.keep_safe())

    assert told == [1, 2]


def test_an_outage_of_hours_keeps_a_bounded_number(
    tmp_path: Path, journal: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_WAITING", 5)
    kept, told = Records(journal, LiveFiles(RunDirectory(tmp_path))), list[int]()
    for number in range(100):
        kept.when_safe(lambda number=number: told.append(number))  # type: ignore[misc]
    journal.away = False
    asyncio.run(kept.keep_safe())

    assert told == list(range(100 - len(told), 100))
    assert 5 <= len(told) <= 10


def test_the_evidence_of_an_incident_is_kept_in_the_storage_once_that_is_back(tmp_path: Path, journal: Away) -> None:
    storage = open_store((tmp_path / "storage").as_uri())
    kept = Records(journal, LiveFiles(RunDirectory(tmp_path)))
    kept.keep = storage.put
    line = EvidenceLine(number=3, findings=(Finding(kind="a node was lost", time=1.0, node="n1"),))
    kept.add(line)
    asyncio.run(kept.keep_safe())
    assert list(storage.list("incidents/")) == []

    journal.away = False
    asyncio.run(kept.keep_safe())

    assert EvidenceLine.model_validate_json(storage.get("incidents/0003/evidence.json")) == line
