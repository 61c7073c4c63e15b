"""A build by several workers: the same bytes as one alone, whoever of them is lost and whenever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tessera_api.dataset_build import DatasetBuild
from tessera_data.build import Built, Stage, build_dataset
from tessera_data.progress_page import ProgressPage
from tessera_data.team import BuiltElsewhere, Task, Team
from tessera_data.workspace import SharedWorkspace, Workspace
from tessera_store import Store, open_store
from tests.unit.data_builds import SMALL, build_in, environment, manifest_of, objects, write_sources

Clock = list[float]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "shared").as_uri())


def a_team(store: Store, index: int, of: int, clock: Clock, on_pause: Callable[[], None] = lambda: None) -> Team:
    """A worker whose pauses pass at once; a second each, by its own clock."""

    def pause(seconds: float) -> None:
        clock[0] += seconds
        on_pause()

    return Team(store, index, of, now=lambda: clock[0], pause=pause)


def tasks_of(workspace: Workspace, done: list[str], count: int = 4) -> list[Task]:
    def do(name: str) -> None:
        done.append(name)
        workspace.write_record(name, {})

    return [Task(name, lambda name=name: do(name)) for name in (f"task-{number}" for number in range(count))]  # type: ignore[misc]


def shared(store: Store, tmp_path: Path, index: int) -> SharedWorkspace:
    return SharedWorkspace(tmp_path / f"worker-{index}", store, "work/")


def test_a_worker_does_its_own_tasks_and_waits_for_others_whose_hearts_beat(store: Store, tmp_path: Path) -> None:
    mine, theirs, clock = list[str](), list[str](), [0.0]
    other = tasks_of(shared(store, tmp_path, 1), theirs)

    def beat() -> None:
        store.put("hearts/1", str(clock[0]).encode())
        if clock[0] >= 100 * (len(theirs) + 1):
            other[1 + 2 * len(theirs)].do()

    workspace = shared(store, tmp_path, 0)
    a_team(store, 0, 2, clock, beat).complete(tasks_of(workspace, mine), workspace, lambda done, of: None)

    assert (mine, theirs) == (["task-0", "task-2"], ["task-1", "task-3"])
    assert clock[0] >= 200


def test_the_tasks_of_a_worker_whose_heart_has_stopped_are_done_by_another(store: Store, tmp_path: Path) -> None:
    mine, clock, counts = list[str](), [0.0], list[tuple[int, int]]()
    store.put("hearts/1", b"its last beat")
    workspace = shared(store, tmp_path, 0)

    team = a_team(store, 0, 2, clock)
    team.complete(tasks_of(workspace, mine), workspace, lambda done, of: counts.append((done, of)))

    assert mine == ["task-0", "task-2", "task-1", "task-3"]
    assert 30 < clock[0] < 60
    assert counts == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_who_waits_learns_that_the_build_is_over(store: Store, tmp_path: Path) -> None:
    workspace, clock = shared(store, tmp_path, 0), [0.0]
    team = a_team(store, 0, 2, clock, lambda: store.put("hearts/1", str(clock[0]).encode()))
    team.is_over = lambda: clock[0] > 5

    with pytest.raises(BuiltElsewhere):
        team.complete(tasks_of(workspace, []), workspace, lambda done, of: None)


def test_what_one_worker_has_written_another_reads_once_its_record_is_there(store: Store, tmp_path: Path) -> None:
    first, second = shared(store, tmp_path, 0), shared(store, tmp_path, 1)
    with first.writing("part") as file:
        file.write(b"bytes")
    second.look()
    assert not second.path("part").exists()

    first.write_record("task", {"found": 3})
    second.look()

    assert second.done("task")
    assert (second.record("task"), second.path("part").read_bytes()) == ({"found": 3}, b"bytes")
    first.remove()
    assert list(store.list("work/")) == []


def worker(folder: Path, index: int, of: int, **team: Any) -> Built:
    build = DatasetBuild.model_validate(manifest_of(folder))
    store = open_store((folder / "out" / ".build" / "small").as_uri())
    member = Team(store, index, of, **team)
    return build_dataset(build, folder / f"work-{index}", lambda *_: None, SMALL, member)


def dataset(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in objects(folder / "out").items() if not name.startswith(".build")}


def test_one_of_three_workers_builds_everything_when_the_others_never_come(folder: Path) -> None:
    build_in(folder, "alone")
    alone = dataset(folder)
    (folder / "out").rename(folder / "first")

    built = worker(folder, 1, 3, silent_seconds=0.0, pause=lambda seconds: None)

    assert (dataset(folder), built.reused) == (alone, False)
    assert worker(folder, 0, 3).reused


def test_three_workers_at_once_publish_what_one_alone_does(folder: Path) -> None:
    build_in(folder, "alone")
    alone = dataset(folder)
    (folder / "out").rename(folder / "first")
    built: list[Built] = []

    def work(index: int) -> None:
        team = Team(open_store((folder / "out" / ".build" / "small").as_uri()), index, 3)
        team.begin()
        build = DatasetBuild.model_validate(manifest_of(folder))
        built.append(build_dataset(build, folder / f"work-{index}", lambda *_: None, SMALL, team))
        team.end()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert len(built) == 3
    assert {one.data for one in built} == {built[0].data}
    assert sorted(one.reused for one in built) == [False, True, True]
    assert dataset(folder) == alone


KILLED_AT = """
import json, os, sys
from pathlib import Path
from tessera_api.dataset_build import DatasetBuild
from tessera_data.build import Sizes, build_dataset
from tessera_data.team import Team
from tessera_store import open_store

folder, index, kill_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
build = DatasetBuild.model_validate(json.loads((folder / "build.json").read_text()))
seen = 0

def progress(stage, done, of):
    global seen
    seen += 1
    if seen == kill_at:
        os.kill(os.getpid(), 9)

store = open_store(build.spec.output.uri + "/.build/small")
team = Team(store, index, 2, silent_seconds=0.0, pause=lambda seconds: None)
build_dataset(build, folder / f"work-{kill_at}-{index}", progress, Sizes(2000, 3000), team)
print(seen)
"""


def test_a_worker_that_is_killed_anywhere_leaves_its_tasks_to_the_others(folder: Path) -> None:
    build_in(folder, "alone")
    alone = dataset(folder)
    (folder / "out").rename(folder / "first")
    (folder / "build.json").write_text(json.dumps(manifest_of(folder)))

    def run(index: int, kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED_AT, str(folder), str(index), str(kill_at)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())

    for kill_at in (3, 17, 29):
        assert run(0, kill_at).returncode == -signal.SIGKILL
        assert not dataset(folder)
        done = run(1, 10**6)
        assert (done.returncode, done.stderr) == (0, "")
        assert dataset(folder) == alone
        os.rename(folder / "out", folder / f"out-{kill_at}")


def test_a_build_says_over_http_how_far_it_is() -> None:
    page = ProgressPage()
    port = page.begin("127.0.0.1", 0)
    page.say(Stage.ENCODE.value, 3, 40)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        assert json.load(answer) == {"stage": "encode", "done": 3, "of": 40}
