"""Compiled code on its way to new nodes: what is carried, when, and what is never unpacked."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera_api.keys import Keys
from tessera_keeper import compiled_code
from tessera_keeper.code_carrier import CodeCarrier
from tessera_keeper.compiled_code import NotOurs, TooMuch, contents, object_name, pack, unpack
from tessera_store import Store, StoreUnavailable, open_store
from tessera_trainer.agent import compiled_code as folder_of
from tests.unit.operator_world import RUN, a_run, a_start

KEYS = Keys(b"k" * 32)
NAME = object_name("AVX512/1/abc")
KERNEL, WRAPPER = "5a/kernel.so", "hl/wrapper.py"


def compiled(folder: Path, **more: str) -> Path:
    for name, text in {KERNEL: "machine code", WRAPPER: "call it", **more}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_arrives_as_it_was_without_locks_and_half_written_files(tmp_path: Path) -> None:
    there = compiled(tmp_path / "a", **{"locks/kernel.lock": "", "5a/.half": "ma"})
    unpack(pack(there, NAME, KEYS), NAME, (KEYS,), tmp_path / "b")

    assert files(tmp_path / "b") == {KERNEL: "machine code", WRAPPER: "call it"}
    assert contents(tmp_path / "b") == contents(there) != ""
    assert contents(tmp_path / "nothing") == ""


def test_what_a_node_has_compiled_itself_is_not_replaced(tmp_path: Path) -> None:
    own = compiled(tmp_path / "b", **{KERNEL: "its own"})
    unpack(pack(compiled(tmp_path / "a"), NAME, KEYS), NAME, (KEYS,), own)

    assert files(own) == {KERNEL: "its own", WRAPPER: "call it"}


@pytest.mark.parametrize(
    ("change", "ring", "name"),
    [
        (lambda data: data, (Keys(b"x" * 32),), NAME),
        (lambda data: data, (Keys(b"k" * 32, number=1),), NAME),
        (lambda data: data, (KEYS,), object_name("AVX2/1/abc")),
        (lambda data: data[:-1], (KEYS,), NAME),
        (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], (KEYS,), NAME),
        (lambda data: b"", (KEYS,), NAME),
    ],
    ids=["another key", "another number", "another kind of machine", "cut short", "a bit changed", "empty"],
)
def test_what_carries_no_seal_of_the_run_is_not_unpacked(
    tmp_path: Path, change: Callable[[bytes], bytes], ring: tuple[Keys, ...], name: str
) -> None:
    data = change(pack(compiled(tmp_path / "a"), NAME, KEYS))

    with pytest.raises(NotOurs, match="carries the seal of no key that this node holds"):
        unpack(data, name, ring, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def sealed(members: list[tarfile.TarInfo], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """An object with a right seal and these members."""
    monkeypatch.setattr(
        tarfile.TarFile, "add", lambda tar, *_, **__: [tar.addfile(one, io.BytesIO()) for one in members]
    )
    one = tmp_path / "one"
    one.mkdir()
    (one / "file").write_text("")
    return pack(one, NAME, KEYS)


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "link"])
def test_no_file_gets_out_of_the_folder_even_under_a_right_seal(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = tarfile.TarInfo(name)
    if name == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    data = sealed([member], monkeypatch, tmp_path)

    with pytest.raises(NotOurs, match="cannot be a file of it"):
        unpack(data, NAME, (KEYS,), tmp_path / "b")
    assert files(tmp_path) == {"one/file": ""}


def test_a_folder_that_is_too_large_is_not_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_code, "MAX_BYTES", 18)
    with pytest.raises(TooMuch):
        pack(compiled(tmp_path / "a"), NAME, KEYS)


def test_other_machines_have_another_object() -> None:
    assert object_name("AVX512/1/abc") == NAME != object_name("AVX2/1/abc")


@pytest.mark.parametrize(
    ("compilation", "variables", "folder"),
    [
        ("blocks", {"TESSERA_COMPILED_CODE": "here", "TORCHINDUCTOR_CACHE_DIR": "the image's"}, Path("here")),
        ("blocks", {"TESSERA_COMPILED_CODE": "", "TORCHINDUCTOR_CACHE_DIR": "mine"}, None),
        ("blocks", {}, None),
        ("none", {"TESSERA_COMPILED_CODE": "here"}, None),
    ],
)
def test_code_is_carried_where_blocks_are_compiled_and_the_node_has_a_folder_for_it(
    compilation: str, variables: dict[str, str], folder: Path | None
) -> None:
    training = {**RUN["spec"]["training"], "compile": compilation}
    assert folder_of(a_start(a_run(training=training)), variables) == folder


class Node:
    """A carrier without its thread."""

    def __init__(self, folder: Path, store: Store, keys: Keys = KEYS) -> None:
        self.folder = folder
        self.keys: tuple[Keys, ...] = (keys,)
        self.carrier = CodeCarrier(folder, lambda: store, lambda: self.keys)
        self.carrier._name = NAME

    def looks(self, times: int = 1) -> None:
        for _ in range(times):
            self.carrier.look()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def stored(store: Store) -> list[str]:
    return [f"{info.name} {info.modified}" for info in store.list(compiled_code.ROOT)]


def test_the_node_of_rank_0_stores_what_it_has_compiled_once_that_has_come_to_rest(
    tmp_path: Path, store: Store
) -> None:
    node = Node(tmp_path / "a", store)
    node.carrier.began(leads=True)
    node.looks(2)
    compiled(node.folder)
    node.looks()
    compiled(node.folder, more="another kernel")
    node.looks()
    assert stored(store) == []

    node.looks()
    once = stored(store)
    node.looks(3)
    assert stored(store) == once != []
    compiled(node.folder, evaluation="a graph that came later")
    node.looks(2)
    assert stored(store) != once


def test_nodes_of_other_ranks_store_nothing(tmp_path: Path, store: Store) -> None:
    node = Node(compiled(tmp_path / "a"), store)
    node.carrier.began(leads=False)
    node.looks(3)

    assert stored(store) == []


def test_a_new_node_has_the_code_before_it_trains_and_a_spare_has_what_came_later_too(
    tmp_path: Path, store: Store
) -> None:
    first, spare = Node(compiled(tmp_path / "a"), store), Node(tmp_path / "b", store)
    spare.looks()
    assert files(spare.folder) == {}

    first.carrier.began(leads=True)
    first.looks(2)
    spare.looks()
    assert files(spare.folder) == files(first.folder)

    compiled(first.folder, evaluation="a graph that came later")
    first.looks(2)
    spare.looks()
    assert files(spare.folder) == files(first.folder)


def test_a_node_that_trains_fetches_what_it_lacks_altogether_and_otherwise_leaves_its_own_alone(
    tmp_path: Path, store: Store
) -> None:
    store.put(NAME, pack(compiled(tmp_path / "a"), NAME, KEYS))
    empty, busy = Node(tmp_path / "b", store), Node(tmp_path / "c", store)
    (busy.folder / "5b").mkdir(parents=True)
    (busy.folder / "5b" / "own.so").write_text("its own")
    for node in (empty, busy):
        node.carrier.began(leads=False)
        node.looks()

    assert len(files(empty.folder)) == 2
    assert list(files(busy.folder)) == ["5b/own.so"]


def test_under_a_new_key_the_code_is_sealed_anew(tmp_path: Path, store: Store) -> None:
    node, later = Node(compiled(tmp_path / "a"), store), Keys(b"l" * 32, number=1)
    node.carrier.began(leads=True)
    node.looks(2)
    node.keys = (later, KEYS)
    node.looks()

    new = Node(tmp_path / "b", store, later)
    new.looks()
    assert files(new.folder) == files(node.folder)


def test_code_of_a_foreign_key_and_a_storage_that_is_away_cost_nothing_but_a_warning(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, pack(compiled(tmp_path / "a"), NAME, Keys(b"x" * 32)))
    node = Node(tmp_path / "b", store)
    node.looks(3)
    assert [record.getMessage() for record in caplog.records] == [
        f"compiled code was not carried: {NAME} carries the seal of no key that this node holds"
    ]

    def away(name: str) -> None:
        raise StoreUnavailable(f"{name}: away")

    monkeypatch.setattr(store, "info", away)
    node.looks()
    assert "away" in caplog.records[-1].getMessage()


def test_code_that_could_not_be_read_is_fetched_at_the_next_look(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, pack(compiled(tmp_path / "a"), NAME, KEYS))
    node = Node(tmp_path / "b", store)

    def away(name: str) -> None:
        raise StoreUnavailable(f"{name}: away")

    with monkeypatch.context() as outage:
        outage.setattr(store, "get", away)
        node.looks()
    assert files(node.folder) == {}
    node.looks()
    assert len(files(node.folder)) == 2


def test_where_there_is_no_storage_for_it_trainers_compile(tmp_path: Path, store: Store) -> None:
    node = Node(tmp_path / "b", store)
    node.carrier.start("AVX512/1/none")
    node.carrier.looked()

    assert files(node.folder) == {}
