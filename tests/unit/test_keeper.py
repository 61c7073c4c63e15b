"""What a node holds in memory outlives its trainers, is never overwritten while it is wanted, and is given to the run's
other nodes and to nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from tessera_api.checkpoint import CheckpointPrefix
from tessera_api.keys import only
from tessera_api.log import StoredObject
from tessera_api.messages import Part
from tessera_keeper.keeping import Keeping, Neighbour
from tessera_keeper.line import KeeperGone, KeeperLine
from tessera_keeper.line_server import LineServer
from tessera_keeper.part_file import Progress
from tessera_keeper.peer_stream import PeerLost, call
from tessera_keeper.peers import PeerServer, read_from
from tessera_keeper.shelf import Shelf
from tessera_keeper.spare_memory import MARGIN_BYTES, spare_memory
from tessera_run import Holder
from tessera_store import Store, open_store
from tessera_store.files import FileStore
from tessera_trainer.checkpoint import CheckpointWriter, Ranks, Save
from tessera_trainer.kept_parts import HolderLost, KeptParts
from tessera_trainer.restore import restore
from tessera_trainer.shards import Shard, rows_of

WAIT_S = 20.0
KEY = only(b"k" * 32)
WEIGHT = torch.arange(203 * 8, dtype=torch.float32).view(203, 8)


class SlowStore(FileStore):
    """Takes a part once it is let go."""

    def __init__(self, store: Store) -> None:
        super().__init__(Path(urlsplit(store.uri).path))
        self.let_go = threading.Event()

    def put(self, name: str, data: bytes | Path) -> None:
        assert self.let_go.wait(WAIT_S)
        super().put(name, data)


class Place:
    """A node's keeper, as its program puts it together."""

    def __init__(self, folder: Path, ring: Callable[..., object] = KEY, spare: int = 1 << 40) -> None:
        folder.mkdir()
        self.store = SlowStore(open_store((folder / "store").as_uri()))
        self.store.let_go.set()
        self.reported: list[Part] = []
        self.arrived = threading.Semaphore(0)
        self.keeping = Keeping(lambda: self.store, self._report, Shelf(lambda: spare))
        self.peers = PeerServer(self.keeping.shelf, ring, "127.0.0.1")  # type: ignore[arg-type]
        self.path = folder / "keeper"
        self.lines = LineServer(self.path, self.keeping)
        self.keeping.begin("", 2, None)

    def _report(self, part: Part) -> None:
        self.reported.append(part)
        self.arrived.release()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.peers.port

    def names(self) -> list[str]:
        return [part.object.name for part in self.keeping.shelf.kept()]

    def close(self) -> None:
        self.peers.close()
        self.lines.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(name: str = "node", **how: object) -> Place:
        made.append(Place(tmp_path / name, **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def shard(rank: int, ranks: int, tensor: torch.Tensor = WEIGHT) -> Shard:
    rows = rows_of(tensor.shape[0], ranks, rank)
    return Shard("weight/w", tuple(tensor.shape), tensor[rows.start : rows.stop].clone(), rows)


def folder(step: int) -> CheckpointPrefix:
    return CheckpointPrefix(step=step, term=1, generation=2, nonce="n")


def writer(keeper: Keeping | KeeperLine, rank: int = 0, ranks: int = 1) -> CheckpointWriter:
    return CheckpointWriter(keeper, Ranks(rank, ranks), limit_s=WAIT_S, remember=True)


def take(saving: CheckpointWriter, step: int, shards: list[Shard], store: bool = False, whole: bool = True) -> Save:
    progress = Progress(step=step, position=8 * step, updates=step)
    save = saving.save(shards, progress, folder(step), store=store, whole=whole)
    assert save.wait_settled(WAIT_S)
    return save


def test_a_part_that_is_stored_after_its_trainer_is_gone_is_reported(place: Callable[..., Place]) -> None:
    node = place()
    node.store.let_go.clear()
    line = KeeperLine(str(node.path))
    save = take(writer(line), 4, [shard(0, 1)], store=True)
    line.close()

    node.store.let_go.set()

    assert node.arrived.acquire(timeout=WAIT_S)
    (part,) = node.reported
    assert (part.generation, part.rank, part.step, part.position) == (2, 0, 4, 32)
    assert node.store.size(save.name) == part.objects[0].size


def test_whoever_trains_hears_what_became_of_a_part(place: Callable[..., Place]) -> None:
    node = place()
    line = KeeperLine(str(node.path))

    stored = take(writer(line), 4, [shard(0, 1)], store=True).wait(WAIT_S)

    assert node.reported[0].objects == (stored,)
    line.close()


def test_memory_is_used_again_once_its_step_is_no_longer_wanted_and_never_before(place: Callable[..., Place]) -> None:
    node = place()
    saving = writer(KeeperLine(str(node.path)))
    for step in (2, 4, 6, 8):
        shards = [shard(0, 1, WEIGHT + step)]
        take(saving, step, shards)
        # The last one may not be whole elsewhere, so the one before stays too.
        assert node.names() == [f"{folder(kept)}rank-00000-of-00001.safetensors" for kept in (step, step - 2) if kept]
        with node.keeping.shelf.reading(node.names()[0]) as part:
            assert part.buffer.number == (1 if step in (2, 6) else 2)


def test_without_that_agreement_nothing_older_is_given_up(place: Callable[..., Place]) -> None:
    node = place()
    saving = writer(node.keeping)
    take(saving, 2, [shard(0, 1)])
    take(saving, 4, [shard(0, 1)], whole=True)
    take(saving, 6, [shard(0, 1)], whole=False)

    assert len(node.names()) == 3


def test_a_copy_that_was_torn_by_its_trainers_end_is_no_part(place: Callable[..., Place]) -> None:
    node = place()
    line = KeeperLine(str(node.path))
    leased = line.lease(4096, -1)
    line.close()

    other = KeeperLine(str(node.path))
    wait_until(lambda: other.lease(4096, -1).number == leased.number)

    assert node.names() == []
    other.close()


def test_a_part_that_is_being_stored_keeps_its_memory(place: Callable[..., Place]) -> None:
    node = place()
    node.store.let_go.clear()
    saving = writer(node.keeping)
    first = take(saving, 2, [shard(0, 1, WEIGHT)], store=True)
    for step in (4, 6, 8):
        take(saving, step, [shard(0, 1, WEIGHT + step)])

    node.store.let_go.set()

    empty = [shard(0, 1, torch.zeros_like(WEIGHT))]
    restore([first.wait(WAIT_S)], node.store, empty)
    assert torch.equal(empty[0].local, WEIGHT)


def test_a_generation_keeps_only_what_it_begins_from(place: Callable[..., Place]) -> None:
    node = place()
    saving = writer(node.keeping)
    take(saving, 2, [shard(0, 1)])
    take(saving, 4, [shard(0, 1)])

    node.keeping.begin(str(folder(2)), 2, None)
    assert node.names() == [f"{folder(2)}rank-00000-of-00001.safetensors"]
    node.keeping.begin("", 2, None)
    assert node.names() == []


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_a_lost_node_held_is_read_from_its_neighbour_at_any_world_size(
    place: Callable[..., Place], ranks: int
) -> None:
    nodes = [place(f"node-{number}") for number in range(3)]
    for number, node in enumerate(nodes):
        node.keeping.begin("", 2, Neighbour(nodes[(number + 1) % 3].address, KEY))
    lines = [KeeperLine(str(node.path)) for node in nodes]
    for rank, line in enumerate(lines):
        take(writer(line, rank, 3), 4, [shard(rank, 3)])
    nodes[1].close()

    kept = {
        part.object.name: (part.object, node) for node in (nodes[0], nodes[2]) for part in node.keeping.shelf.kept()
    }
    objects = [kept[name][0] for name in sorted(kept)]
    holders = [Holder(str(nodes.index(kept[name][1])), *kept[name][1].address) for name in sorted(kept)]

    assert len(objects) == 3
    for rank in range(ranks):
        target = shard(rank, ranks, torch.zeros_like(WEIGHT))
        progress = restore(objects, KeptParts(objects, holders, "0", lines[0], KEY), [target])
        assert torch.equal(target.local, shard(rank, ranks).local)
        assert progress == Progress(step=4, position=32, updates=4)


def test_a_node_without_memory_takes_no_copy_and_training_goes_on(place: Callable[..., Place]) -> None:
    full, node = place("full", spare=0), place("node")
    node.keeping.begin("", 2, Neighbour(full.address, KEY))

    take(writer(node.keeping), 4, [shard(0, 1)])

    assert (full.names(), len(node.names())) == ([], 1)


def test_a_neighbour_that_is_gone_holds_nothing_up(place: Callable[..., Place]) -> None:
    gone, node = place("gone"), place("node")
    gone.close()
    node.keeping.begin("", 2, Neighbour(gone.address, KEY))

    take(writer(node.keeping), 4, [shard(0, 1)])

    assert len(node.names()) == 1


def test_another_run_gets_nothing(place: Callable[..., Place]) -> None:
    node = place()
    take(writer(node.keeping), 4, [shard(0, 1)])

    with pytest.raises(PeerLost, match="answers under none of our keys"):
        read_from(node.address, only(b"x" * 32), node.names()[0], 0, 8)
    assert len(read_from(node.address, KEY, node.names()[0], 0, 8)) == 8


@pytest.mark.parametrize(("name", "start", "length"), [("another", 0, 8), (None, 0, 1 << 30), (None, -4, 8)])
def test_what_is_not_held_is_refused(place: Callable[..., Place], name: str | None, start: int, length: int) -> None:
    node = place()
    take(writer(node.keeping), 4, [shard(0, 1)])

    with pytest.raises(PeerLost, match=r"is not held here|has \d+ bytes"):
        read_from(node.address, KEY, name or node.names()[0], start, length)


def test_a_copy_that_comes_late_gives_up_nothing_of_a_newer_generation(place: Callable[..., Place]) -> None:
    late, node = place("late"), place("node")
    take(writer(node.keeping), 4, [shard(0, 1)])
    node.keeping.begin(str(folder(4)), 3, None)  # training has gone back, and a generation begins from step 4
    late.keeping.begin("", 2, Neighbour(node.address, KEY))
    saving = writer(late.keeping)
    take(saving, 500, [shard(0, 1)])
    take(saving, 502, [shard(0, 1)])

    assert node.names() == [f"{folder(4)}rank-00000-of-00001.safetensors"]


def test_a_copy_with_other_bytes_than_announced_is_not_held(place: Callable[..., Place]) -> None:
    node = place()
    announced = StoredObject(name=f"{folder(4)}rank-00000-of-00001.safetensors", size=64, sha256="0" * 64)
    request = {"do": "hold", "object": announced.model_dump(mode="json"), "step": 4, "position": 32, "keep": -1}

    stream, _ = call(node.address, KEY, request)
    stream.send_bytes(memoryview(bytes(64)))

    with pytest.raises(PeerLost):
        stream.hear()
    stream.close()
    assert node.names() == []


def test_older_keys_of_the_run_are_taken(place: Callable[..., Place]) -> None:
    node = place()
    take(writer(node.keeping), 4, [shard(0, 1)])
    newer = only(b"z" * 32)

    data = read_from(node.address, lambda: (*newer(), *KEY()), node.names()[0], 0, 8)

    assert len(data) == 8


def test_a_holder_that_gives_nothing_is_a_peer_that_is_gone(place: Callable[..., Place]) -> None:
    node = place()
    take(writer(node.keeping), 4, [shard(0, 1)])
    (part,) = [part.object for part in node.keeping.shelf.kept()]
    node.close()
    local = KeeperLine.__new__(KeeperLine)

    with pytest.raises(HolderLost, match="far does not give"):
        KeptParts([part], [Holder("far", *node.address)], "here", local, KEY).get_range(part.name, 0, 8)


def test_a_trainer_hears_that_its_keeper_is_gone(place: Callable[..., Place]) -> None:
    node = place()
    line = KeeperLine(str(node.path))
    buffer = line.lease(4096, -1)
    node.lines.close()
    line.close()

    with pytest.raises(KeeperGone):
        line.lease(4096, -1)
    assert buffer.size == 4096


def test_a_node_without_a_keeper_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeeperGone, match=r"this node has no keeper .*the agent's log"):
        KeeperLine(str(tmp_path / "keeper"))


def test_memory_is_spared_by_the_account_of_the_machine_and_of_the_container(tmp_path: Path) -> None:
    machine, group = tmp_path / "meminfo", tmp_path / "group"
    group.mkdir()
    assert spare_memory(machine, group) > 1 << 50
    machine.write_text(f"MemTotal: 99999999 kB\nMemAvailable:    {4 << 20} kB\n")
    assert spare_memory(machine, group) == (4 << 30) - MARGIN_BYTES
    (group / "memory.max").write_text(f"{2 << 30}\n")
    (group / "memory.current").write_text(f"{1536 << 20}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {256 << 20}\n")
    assert spare_memory(machine, group) == (768 << 20) - MARGIN_BYTES
    (group / "memory.current").write_text(f"{2 << 30}\n")
    assert spare_memory(machine, group) == 0


def wait_until(holds: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(1000):
        if holds():
            return
        done.wait(0.01)
    raise AssertionError("it did not come to hold")
