"""A checkpoint's parts: what is saved is read at any world size, and what is not as committed is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tessera_api.checkpoint import CheckpointPrefix
from tessera_api.log import StoredObject
from tessera_api.messages import Part
from tessera_keeper import part_file
from tessera_keeper.keeping import Keeping
from tessera_keeper.part_file import CheckpointDamaged, Progress
from tessera_store import Store, StoreUnavailable, open_store
from tessera_store.files import FileStore
from tessera_trainer.checkpoint import CheckpointFailed, CheckpointWriter, Ranks
from tessera_trainer.restore import restore, verify
from tessera_trainer.shards import Shard, rows_of

PREFIX = CheckpointPrefix(step=12, term=1, generation=3, nonce="abc")
PROGRESS = Progress(step=12, position=96, updates=11, skips=((4, 9),))
WHOLE = {
    "weight/embedding": torch.arange(203 * 8, dtype=torch.float32).view(203, 8),
    "weight/norm": torch.arange(5, dtype=torch.float32),
    "exp_avg/embedding": torch.randn(203, 8, generator=torch.Generator().manual_seed(1)),
}
WAIT_S = 20.0


def shards(tensors: dict[str, Tensor], ranks: int, rank: int) -> list[Shard]:
    found = []
    for name, tensor in tensors.items():
        rows = rows_of(tensor.shape[0], ranks, rank)
        found.append(Shard(name, tuple(tensor.shape), tensor[rows.start : rows.stop].clone(), rows))
    return found


def writer_to(
    store: Store,
    rank: int = 0,
    ranks: int = 1,
    limit_s: float = WAIT_S,
    report: Callable[[Part], None] = lambda part: None,
) -> CheckpointWriter:
    return CheckpointWriter(Keeping(lambda: store, report), Ranks(rank, ranks), limit_s=limit_s)


def saved(store: Store, ranks: int, prefix: CheckpointPrefix = PREFIX) -> list[StoredObject]:
    writers = [writer_to(store, rank, ranks) for rank in range(ranks)]
    saves = [writer.save(shards(WHOLE, ranks, rank), PROGRESS, prefix) for rank, writer in enumerate(writers)]
    return [save.wait(WAIT_S) for save in saves]


def loaded(objects: list[StoredObject], store: Store, ranks: int) -> dict[str, Tensor]:
    empty = {name: torch.full_like(tensor, -1.0) for name, tensor in WHOLE.items()}
    targets = [shards(empty, ranks, rank) for rank in range(ranks)]
    assert [restore(objects, store, target) for target in targets] == [PROGRESS] * ranks
    return {name: torch.cat([target[place].local for target in targets]) for place, name in enumerate(WHOLE)}


def flip(store: Store, name: str, place: int) -> None:
    data = bytearray(store.get(name))
    data[place] ^= 1
    store.put(name, bytes(data))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two rows, so that small tensors have many."""
    monkeypatch.setattr(part_file, "BLOCK_BYTES", 64)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_a_checkpoint_is_read_at_any_world_size(store: Store, parts: int, ranks: int) -> None:
    whole = loaded(saved(store, parts), store, ranks)
    assert all(torch.equal(whole[name], tensor) for name, tensor in WHOLE.items())


def test_a_part_is_a_safetensors_file(store: Store, tmp_path: Path) -> None:
    (part,) = saved(store, 1)
    store.download(part.name, tmp_path / "part")
    with safe_open(tmp_path / "part", "pt") as opened:
        assert all(torch.equal(opened.get_tensor(name), tensor) for name, tensor in WHOLE.items())


def test_the_commit_entry_gets_name_size_and_digest(store: Store) -> None:
    (part, _) = saved(store, 2)
    assert part.name == "checkpoints/00000012-1.3-abc/rank-00000-of-00002.safetensors"
    assert part.size == store.size(part.name)
    verify([part], store)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_flipped_byte_is_refused_wherever_it_lies(store: Store, ranks: int) -> None:
    objects = saved(store, 2)
    size = objects[1].size
    for place in (0, 9, size // 3, size - 3000, size - 1):
        flip(store, objects[1].name, place)
        with pytest.raises(CheckpointDamaged, match=r"rank-00001-of-00002.*expected") as caught:
            loaded(objects, store, ranks)
        assert objects[1].name in str(caught.value)
        flip(store, objects[1].name, place)
    loaded(objects, store, ranks)


def test_a_block_that_this_rank_does_not_need_is_not_read(store: Store) -> None:
    objects = saved(store, 1)
    flip(store, objects[0].name, objects[0].size - 1)
    empty = {name: torch.zeros_like(tensor) for name, tensor in WHOLE.items()}
    assert restore(objects, store, shards(empty, 4, 0)) == PROGRESS
    with pytest.raises(CheckpointDamaged, match="rows 202 to 203 of exp_avg/embedding"):
        restore(objects, store, shards(empty, 4, 3))


def test_a_torn_object_is_refused_by_name_and_size(store: Store) -> None:
    (part,) = objects = saved(store, 1)
    store.put(part.name, store.get(part.name)[:-7])
    with pytest.raises(CheckpointDamaged, match=rf"size in bytes is {part.size - 7}, expected {part.size}"):
        loaded(objects, store, 1)


def test_another_object_under_the_name_is_refused(store: Store) -> None:
    (part,), (other,) = saved(store, 1), saved(store, 1, PREFIX.model_copy(update={"nonce": "xyz"}))
    store.put(part.name, store.get(other.name))
    with pytest.raises(CheckpointDamaged, match="the name inside"):
        loaded([part], store, 2)


def test_a_list_without_one_of_the_parts_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"all its ranks; number 0 of 2 is .*rank-00000-of-00003"):
        loaded([part for part in saved(store, 3) if "rank-00001" not in part.name], store, 1)
    with pytest.raises(ValueError, match=r"number 0 of 3 is .*rank-00002-of-00003"):
        loaded(list(reversed(saved(store, 3))), store, 1)
    with pytest.raises(ValueError, match="there are none"):
        loaded([], store, 1)


def test_only_the_parts_that_are_needed_are_looked_at(store: Store) -> None:
    class Told(list[StoredObject]):
        looked: ClassVar[list[int]] = []

        def __getitem__(self, index: Any) -> Any:
            self.looked.append(index)
            return super().__getitem__(index)

    target = shards({"weight/embedding": torch.zeros(203, 8)}, 4, 2)

    restore(Told(saved(store, 4)), store, target)

    assert set(Told.looked) == {2}


def test_a_checkpoint_of_another_model_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"weight/norm is \[5\] F32 .* and \[6\]"):
        restore(saved(store, 1), store, shards({"weight/norm": torch.zeros(6)}, 1, 0))
    with pytest.raises(ValueError, match="has no tensor weight/bias"):
        restore(saved(store, 1), store, shards({"weight/bias": torch.zeros(6)}, 1, 0))


def test_tensors_may_change_while_they_are_written(store: Store) -> None:
    held = HeldStore(store)
    writer = writer_to(held)
    mine = shards(WHOLE, 1, 0)
    save = writer.save(mine, PROGRESS, PREFIX)
    for shard in mine:
        shard.local.fill_(-7.0)
    held.let_go.set()
    whole = loaded([save.wait(WAIT_S)], store, 1)
    assert all(torch.equal(whole[name], tensor) for name, tensor in WHOLE.items())


def test_a_second_save_waits_for_the_first(store: Store) -> None:
    held = HeldStore(store)
    writer = writer_to(held, limit_s=0.05)
    first = writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX)
    assert writer.busy
    with pytest.raises(TimeoutError, match=r"is not written after 0.05 s"):
        writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX)
    held.let_go.set()
    first.wait(WAIT_S)
    later = writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX.model_copy(update={"step": 13}))
    verify([first.wait(WAIT_S), later.wait(WAIT_S)], store)


def test_a_longer_skip_list_finds_room(store: Store) -> None:
    writer = writer_to(store)
    writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX)
    longer = PROGRESS.model_copy(update={"skips": tuple((number, number + 1) for number in range(500))})
    part = writer.save(shards(WHOLE, 1, 0), longer, PREFIX.model_copy(update={"nonce": "b"})).wait(WAIT_S)
    assert restore([part], store, shards(WHOLE, 1, 0)) == longer


def test_a_store_that_fails_is_reported_to_whoever_waits(store: Store) -> None:
    writer = writer_to(HeldStore(store, fails=True))
    save = writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX)
    with pytest.raises(CheckpointFailed, match="the disk is full") as caught:
        save.wait(WAIT_S)
    assert isinstance(caught.value.__cause__, StoreUnavailable)


def test_a_failure_that_nobody_waited_for_ends_the_next_save(store: Store) -> None:
    writer = writer_to(HeldStore(store, fails=True))
    writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX)
    with pytest.raises(CheckpointFailed, match=r"rank-00000-of-00001\.safetensors was not written"):
        writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX)


def test_a_failure_can_be_asked_for_between_saves(store: Store) -> None:
    held = HeldStore(store)
    writer = writer_to(held)
    save = writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX)
    writer.check()
    held.fails = True
    held.let_go.set()
    with pytest.raises(CheckpointFailed, match="the disk is full"):
        save.wait(WAIT_S)
    with pytest.raises(CheckpointFailed, match="the disk is full"):
        writer.check()
    writer.check()  # told once


def test_a_part_is_reported_once_it_is_safe(store: Store) -> None:
    heard: list[tuple[Part, int]] = []
    writer = writer_to(store, report=lambda part: heard.append((part, store.size(part.objects[0].name))))
    stored = writer.save(shards(WHOLE, 1, 0), PROGRESS, PREFIX).wait(WAIT_S)
    ((part, size),) = heard
    assert (part.objects, size) == ((stored,), stored.size)
    assert (part.generation, part.rank, part.step, part.position) == (3, 0, 12, 96)
    assert part.seconds >= part.stall_seconds > 0.0


def test_a_header_tells_its_rows_to_any_reader(store: Store) -> None:
    _, part = saved(store, 2)
    data = store.get(part.name)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    record = json.loads(header["__metadata__"]["tessera"])
    assert [(tensor["name"], tensor["shape"], tensor["rows"]) for tensor in record["tensors"]] == [
        ("weight/embedding", [203, 8], [102, 203]),
        ("weight/norm", [5], [3, 5]),
        ("exp_avg/embedding", [203, 8], [102, 203]),
    ]
    assert record["progress"] == {"step": 12, "position": 96, "updates": 11, "skips": [[4, 9]], "guard": ""}


class HeldStore(FileStore):
    """A store whose `put` waits until it is let go, or fails as a full disk does."""

    def __init__(self, store: Store, *, fails: bool = False) -> None:
        super().__init__(Path(urlsplit(store.uri).path))
        self.fails = fails
        self.let_go = threading.Event()

    def put(self, name: str, data: bytes | Path) -> None:
        if not self.fails:
            assert self.let_go.wait(WAIT_S)
        if self.fails:
            raise StoreUnavailable("the disk is full")
        super().put(name, data)
