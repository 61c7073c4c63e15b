"""Drills of the way to the storage: slow, full, torn; and nothing is told as stored that is not whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera_api.drill import Fault
from tessera_keeper.storage_drill import SLOW_SECONDS, StorageDrill
from tessera_store import StoreUnavailable
from tessera_store.files import FileStore

DATA = b"0123456789"


class Place:
    """A storage, a part that is to get there, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.store, self.part = FileStore(folder / "store"), folder / "part"
        self.part.write_bytes(DATA)
        self.now, self.slept = 0.0, list[float]()
        self.drill = StorageDrill(clock=lambda: self.now, sleep=self.slept.append)

    def put(self, name: str) -> bytes:
        self.drill.put(self.store, name, self.part)
        return self.store.get(name)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_a_drill_parts_are_stored(place: Place) -> None:
    assert place.put("a") == DATA
    assert place.slept == []


def test_a_full_storage_takes_nothing_until_the_drill_is_over(place: Place) -> None:
    place.drill.order(Fault.DISK_FULL, 10.0)
    with pytest.raises(StoreUnavailable, match="No space left on device"):
        place.put("a")
    assert list(place.store.list()) == []
    place.now = 10.0
    assert place.put("a") == DATA


def test_a_slow_storage_takes_its_time(place: Place) -> None:
    place.drill.order(Fault.SLOW_STORAGE, 10.0)
    assert place.put("a") == DATA
    place.now = 11.0
    place.put("b")
    assert place.slept == [SLOW_SECONDS]


def test_a_torn_upload_leaves_half_fails_and_is_made_good_by_the_next_try(place: Place) -> None:
    place.drill.order(Fault.TORN_UPLOAD, 0.0)
    with pytest.raises(StoreUnavailable, match="broke half way"):
        place.put("a")
    assert place.store.get("a") == DATA[:5]
    assert place.put("a") == DATA
