"""A storage that is out: training goes on, the newest state is saved once it is back, and only the end waits for it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tessera_api.keys import only
from tessera_api.messages import Part
from tessera_keeper.keeping import Keeping, Neighbour
from tessera_keeper.part_file import Progress
from tessera_run import NotCommitted, Run
from tessera_run.failure import is_storage_error
from tessera_store import ObjectMissing, StoreRefused, StoreUnavailable
from tessera_store.files import FileStore
from tessera_trainer.checkpoint import CheckpointFailed
from tessera_trainer.optimiser import AdamW
from tessera_trainer.outage import Waiting, outlast
from tessera_trainer.saver import Rhythm, Saver, Saving
from tessera_trainer.shards import Shard

LIMIT_S = 20.0


class Optimiser:
    """Weights of one tensor: all that a saver asks of an optimiser."""

    def __init__(self) -> None:
        self.weight, self.updates = torch.zeros(4, 2), 0

    def state(self) -> Iterator[Shard]:
        yield Shard("weight/w", (4, 2), self.weight, range(4))


class OutStore(FileStore):
    """A store that refuses `refusals` writes with `error`, then takes them again."""

    def __init__(self, root: Path, refusals: int, error: Exception) -> None:
        super().__init__(root)
        self.refusals, self.error = refusals, error

    def put(self, name: str, data: bytes | Path) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise self.error
        super().put(name, data)


@dataclass
class Clock:
    """Time that only waiting moves."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def waiting(self, limit_s: float) -> Waiting:
        return Waiting(limit_s, first_s=1.0, longest_s=4.0, clock=lambda: self.now, sleep=self.sleep)


class Agent:
    """The other end of a run's line, and of its keeper's: commits each part that it is told of, and keeps all that it
    hears."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        self.heard: list[dict[str, Any]] = []
        self.stored: list[int] = []
        self._line = theirs
        welcome = {"rank": 0, "local_rank": 0, "world_size": 1, "term": 1, "generation": 1, "nonce": "n"}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.run = Run(mine, welcome | {"skips": [], "resume": None})

    def _serve(self) -> None:
        with self._line, self._line.makefile("rb") as lines:
            for line in lines:
                self.heard.append(json.loads(line))

    def report(self, part: Part) -> None:
        self.stored.append(part.step)
        self._line.sendall(json.dumps({"committed": part.step}).encode() + b"\n")

    def close(self) -> None:
        self.run.close()
        self._thread.join(LIMIT_S)

    def words(self, do: str, key: str) -> list[Any]:
        return [said[key] for said in self.heard if said["do"] == do]


@pytest.fixture
def agent() -> Iterator[Agent]:
    it = Agent()
    yield it
    it.close()


def saver(agent: Agent, store: FileStore, waiting: Waiting) -> Saver:
    return Saver(agent.run, cast(AdamW, Optimiser()), Keeping(lambda: store, agent.report), Rhythm(1), waiting)


def at(step: int) -> Progress:
    return Progress(step=step, position=step, updates=step)


def test_training_goes_on_when_a_save_is_refused_and_the_next_due_state_is_saved(agent: Agent, tmp_path: Path) -> None:
    clock = Clock()
    saving = saver(agent, OutStore(tmp_path, 2, StoreUnavailable("the disk is full")), clock.waiting(100.0))
    for step in (1, 2, 3):
        assert saving.able(Saving.STORE) is Saving.STORE
        saving.save(at(step))
    assert saving.able(Saving.STORE) is Saving.STORE
    saving.finish(at(3))
    agent.close()
    assert agent.stored == [3]
    assert agent.words("note", "name") == ["StorageTrouble", "StorageBack"]
    assert clock.pauses == []


@pytest.mark.parametrize("error", [StoreUnavailable("slow down"), StoreRefused("over the quota")])
def test_the_end_waits_for_the_storage_and_stores_the_last_state(
    agent: Agent, tmp_path: Path, error: Exception
) -> None:
    clock = Clock()
    saver(agent, OutStore(tmp_path, 4, error), clock.waiting(100.0)).finish(at(7))
    agent.close()
    assert agent.stored == [7]
    assert clock.pauses == [1.0, 2.0, 4.0, 4.0]


def test_the_end_waits_for_a_bounded_time_and_then_names_the_storage(agent: Agent, tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(NotCommitted, match="did not take step 7 within 10 s") as raised:
        saver(agent, OutStore(tmp_path, 99, StoreUnavailable("gone")), clock.waiting(10.0)).finish(at(7))
    assert is_storage_error(raised.value)
    assert sum(clock.pauses) <= 10.0


def test_what_is_not_the_storages_doing_is_raised_at_the_next_step(agent: Agent, tmp_path: Path) -> None:
    saving = saver(agent, OutStore(tmp_path, 1, ZeroDivisionError("a bug")), Clock().waiting(100.0))
    saving.save(at(1))
    with pytest.raises(CheckpointFailed, match="a bug"):
        saving.able(Saving.STORE)


def test_reads_are_asked_again_until_the_storage_answers(agent: Agent) -> None:
    clock, answers = Clock(), iter([StoreUnavailable("a"), StoreRefused("b"), None])

    def ask() -> str:
        if error := next(answers):
            raise error
        return "bytes"

    assert outlast(agent.run, "reading", ask, clock.waiting(100.0)) == "bytes"
    agent.close()
    assert agent.words("note", "name") == ["StorageTrouble", "StorageBack"]
    assert clock.pauses == [1.0, 2.0]


@pytest.mark.parametrize(
    ("error", "storage"),
    [
        (StoreUnavailable("out"), True),
        (OSError(28, "No space left on device"), True),
        (ObjectMissing("gone"), False),
        (OSError(2, "No such file"), False),
        (KeyError("x"), False),
    ],
)
def test_a_storages_trouble_is_told_from_the_programs(error: Exception, storage: bool) -> None:
    assert is_storage_error(error) is storage


def test_that_no_other_node_holds_a_snapshot_is_said_once(agent: Agent, tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    keeping = Keeping(lambda: store, agent.report)
    keeping.begin("", 1, Neighbour(("127.0.0.1", 9), only(b"k")))  # nobody listens at the port of discard
    saving = Saver(agent.run, cast(AdamW, Optimiser()), keeping, Rhythm(100, 1), Clock().waiting(100.0))
    for step in (1, 2, 3):
        assert saving.due(step, 100) is Saving.MEMORY
        saving.save(at(step), Saving.MEMORY)
        assert saving.able(Saving.BOTH) is Saving.BOTH
    agent.close()
    assert agent.words("note", "name") == ["NoCopies"]


def test_a_node_without_memory_for_snapshots_takes_checkpoints_alone_and_says_so(agent: Agent, tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    keeping = Keeping(lambda: store, agent.report)
    saving = Saver(agent.run, cast(AdamW, Optimiser()), keeping, Rhythm(4, 2), Clock().waiting(100.0), lambda: 0)

    assert (saving.due(2, 100), saving.able(Saving.MEMORY)) == (Saving.MEMORY, Saving.NOTHING)
    assert (saving.due(4, 100), saving.able(Saving.BOTH)) == (Saving.BOTH, Saving.STORE)
    saving.save(at(4), Saving.STORE)
    assert [saving.due(step, 100) for step in (6, 8)] == [Saving.NOTHING, Saving.STORE]
    agent.close()
    assert agent.words("note", "name") == ["NoSnapshots"]
