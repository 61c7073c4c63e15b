"""What every store must do, on local files and on a real S3 alike."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_store import ObjectExists, ObjectMissing, Store, open_store, probe
from tessera_store.names import check_name


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


def names(store: Store, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


def test_an_object_is_created_once(store: Store) -> None:
    store.create("log/00000001", b"first")

    with pytest.raises(ObjectExists):
        store.create("log/00000001", b"second")

    assert store.get("log/00000001") == b"first"


def test_the_same_bytes_created_twice_are_still_two_creations(store: Store) -> None:
    store.create("manifest", b"same")

    with pytest.raises(ObjectExists):
        store.create("manifest", b"same")


def test_of_eight_writers_at_once_one_wins_each_name(store: Store) -> None:
    start = threading.Barrier(8)

    def write(writer: int) -> list[int]:
        start.wait(timeout=30)
        won = []
        for number in range(20):
            try:
                store.create(f"race/{number:04d}", f"{writer}".encode())
                won.append(number)
            except ObjectExists:
                pass
        return won

    with ThreadPoolExecutor(8) as pool:
        winners = {number: writer for writer, won in enumerate(pool.map(write, range(8))) for number in won}

    assert {number: store.get(f"race/{number:04d}") for number in range(20)} == {
        number: f"{winner}".encode() for number, winner in winners.items()
    }


def test_a_put_replaces_the_whole_object_from_memory_or_from_a_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"from a file")
    store.put("part", b"a much longer object than the next")

    store.put("part", path)

    assert (store.get("part"), store.size("part")) == (b"from a file", 11)


def test_a_file_of_many_parts_goes_up_and_comes_down_whole(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(65 << 20))

    store.put("big", path)
    store.download("big", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "store") == ["big", "copy"]


@pytest.mark.parametrize(
    ("start", "length", "data"), [(0, 4, b"0123"), (8, 9, b"89"), (10, 1, b""), (99, 1, b""), (3, 0, b"")]
)
def test_a_range_ends_where_the_object_ends(store: Store, start: int, length: int, data: bytes) -> None:
    store.put("digits", b"0123456789")

    assert store.get_range("digits", start, length) == data


def test_a_listing_is_sorted_by_the_whole_name(store: Store) -> None:
    for name in ("a/z", "a-b", "b/c/d", "a/y", "ab"):
        store.put(name, b"1")

    assert names(store) == ["a-b", "a/y", "a/z", "ab", "b/c/d"]
    assert [names(store, prefix) for prefix in ("a/", "a", "b/c", "c/")] == [
        ["a/y", "a/z"],
        ["a-b", "a/y", "a/z", "ab"],
        ["b/c/d"],
        [],
    ]


def test_deleting_is_done_when_nothing_is_there(store: Store) -> None:
    store.put("folder/object", b"1")

    for _ in range(2):
        store.delete("folder/object")

    assert names(store) == []


def test_what_is_missing_is_missing(store: Store, tmp_path: Path) -> None:
    store.put("folder/object", b"1")
    asked: list[Callable[[str], object]] = [
        store.get,
        store.size,
        lambda name: store.get_range(name, 0, 0),
        lambda name: store.get_range(name, 5, 5),
        lambda name: store.download(name, tmp_path / "copy"),
    ]

    for ask in asked:
        for name in ("nothing", "folder", "folder/object/below"):
            with pytest.raises(ObjectMissing):
                ask(name)
    assert not (tmp_path / "copy").exists()


def test_the_probe_passes_and_cleans_up(store: Store) -> None:
    probe(store)

    assert names(store) == []


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\nb", "a" * 256, "a/" * 500 + "a"])
def test_a_name_that_leads_elsewhere_or_is_too_long_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="object name"):
        store.put(name, b"1")


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_no_accepted_name_leaves_the_root(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        return
    assert os.path.normpath(os.path.join("/store", name)) == f"/store/{name}"


@pytest.mark.parametrize(
    "uri", ["", "models/runs", "file:relative", "file://host/a", "s3://", "https://host/a", "s3://b/a?v=1"]
)
def test_an_address_that_is_none_is_refused_with_the_form_that_is_right(uri: str) -> None:
    with pytest.raises(ValueError, match=r"file:///folder or s3://bucket/prefix"):
        open_store(uri)
