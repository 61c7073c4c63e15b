"""Ends that must take everything along, and a writer that is stopped on its way to a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import damage, newest_commit
from lab import alive, members_of_tree
from recovery_figures import each, say_kept, say_seconds
from recovery_stage import START_SECONDS, STEP_SECONDS, Stage, require
from workload import NAME, Workload, dataset

from tessera_api.run_directory import RunDirectory

MOST_LATE = 20
"""How often the moment between a part and its commit may be missed."""


def _tell(figure: str, number: int, **said: object) -> None:
    line = {"try": number, "of": figure, **said, "load": os.getloadavg()[0]}
    print(json.dumps(line), file=sys.stderr, flush=True)


def warm_killed(work: Path, tries: int, quick: bool) -> None:
    """SIGKILL of a warm process."""
    _ends(work, ("warm process killed", tries, quick), lambda stage, name: stage.warm(name))


def agent_killed(work: Path, tries: int, quick: bool) -> None:
    """SIGKILL of an agent alone."""
    _ends(work, ("agent killed", tries, quick), lambda stage, name: stage.lab.nodes[name].pid)


def _ends(work: Path, figure: tuple[str, int, bool], target: Callable[[Stage, str], int]) -> None:
    what, tries, quick = figure
    seconds = []
    with Stage(work, what.split()[0], Workload()) as stage:
        for number in range(tries):
            stage.settle(steps=2)
            lab, before = stage.lab, stage.lab.generation()["generation"]
            victim = lab.members()[number % 3]
            trainers, pid = stage.trainers(victim), target(stage, victim)
            os.kill(pid, signal.SIGKILL)
            seconds.append(stage.seconds_until_gone(trainers))
            _tell(what, number, gone=seconds[-1])
            lab.wait_step(0, STEP_SECONDS, before + 1)
            if pid == lab.nodes[victim].pid:
                stage.replace()
    say_seconds(f"{what}: its trainers are gone", seconds, each(1.0), quick)


def local_killed(work: Path, tries: int, quick: bool) -> None:
    """SIGKILL of `tessera local`: everything that it started, directly or not."""
    seconds = [_local_killed(work, number) for number in range(tries)]
    say_seconds("`tessera local` killed: no process left", seconds, each(5.0), quick)


def _local_killed(work: Path, number: int) -> float:
    workdir = work / f"local-{os.getpid()}-{number}"
    (workdir / "datasets").mkdir(parents=True)
    (workdir / "datasets" / f"{NAME}.json").write_bytes(dataset(work / "data").canonical())
    manifest = workdir / "run.json"
    manifest.write_text(json.dumps(Workload().manifest("killed", workdir.as_uri())))
    command = [sys.executable, "-m", "tessera_cli", "local", str(manifest), "--workdir", str(workdir)]
    with open(workdir / "local.log", "wb") as log:
        local = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    directory = RunDirectory(workdir / "runs" / "killed")
    try:
        _wait(lambda: directory.metrics.exists() and directory.metrics.stat().st_size > 0, START_SECONDS)
        tree = members_of_tree(local.pid) - {local.pid}
        require(len(tree) > 3, f"`tessera local` has only the processes {sorted(tree)}")
        began = time.monotonic()
        local.kill()
        _wait(lambda: not any(alive(pid) for pid in tree), 60)
        seconds = time.monotonic() - began
    finally:
        local.kill()
        local.wait()
    _tell("local killed", number, processes=len(tree), gone=seconds)
    return seconds


def _wait(condition: Callable[[], bool], seconds: float, pause: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < deadline, f"it did not come in {seconds:.0f} s")
        time.sleep(pause)


def writer_stopped(work: Path, tries: int, quick: bool) -> None:
    """A node is stopped once its part lies in storage and before the commit: never a torn or a stale checkpoint."""
    kept = number = late = 0
    with Stage(work, "writer", Workload(every=3)) as stage:
        while number < tries:
            stage.settle(steps=4)
            victim = stage.lab.members()[number % 3]
            prefix = _stop_before_commit(stage, victim)
            if prefix is None:
                late += 1
                require(late <= MOST_LATE, f"{late} times the commit stood before the writer did")
                continue
            kept += _goes_on(stage, victim, prefix)
            number += 1
            _tell("writer stopped", number, kept=kept, late=late)
    say_kept("a writer stopped before the commit", tries, kept, "never a torn or stale checkpoint, one history", quick)


def _stop_before_commit(stage: Stage, victim: str) -> str | None:
    """Stop the node's agent at the first sight of a new checkpoint, so that it reports no part, and all else of the
    node when its part lies in storage. The checkpoint's name; None, with all going on, if it was committed first."""
    lab = stage.lab
    place, rank = lab.directory.root / "checkpoints", lab.members().index(victim)
    agent = lab.nodes[victim].pid
    known = set(place.glob("*"))
    _wait(lambda: bool(set(place.glob("*")) - known), STEP_SECONDS, pause=0.001)
    os.kill(agent, signal.SIGSTOP)
    [folder] = set(place.glob("*")) - known
    _wait(lambda: any(folder.glob(f"rank-{rank:05d}-*")), STEP_SECONDS, pause=0.001)
    if not _committed(stage, folder.name):
        lab.signal_node(victim, signal.SIGSTOP)
        if not _committed(stage, folder.name):
            return folder.name
    lab.signal_node(victim, signal.SIGCONT)
    return None


def _goes_on(stage: Stage, victim: str, prefix: str) -> bool:
    """Without the stopped node, and after it was continued: the checkpoint that it wrote is never committed."""
    lab, stopped = stage.lab, time.time()
    before = lab.generation()["generation"]
    lab.wait_event("NodeLost", stopped - 1, victim)
    later = lab.wait_for("a later commit", lambda: _commits(stage.log(), before + 1), STEP_SECONDS)
    log = stage.log()
    opened = next(entry for entry in log if entry["kind"] == "open" and entry["generation"] > before)
    newest = newest_commit(log[: log.index(opened)])
    seen = time.time()
    lab.signal_node(victim, signal.SIGCONT)
    lab.wait_event("NodeSeen", seen, victim)
    stage.settle(steps=2)
    log = stage.log()
    wrong = damage(lab.directory.root, newest_commit(log))
    require(not wrong, f"the newest checkpoint is damaged: {wrong}")
    stale = [
        entry for entry in _commits(log, 0) if entry["generation"] <= before and log.index(entry) > log.index(later[0])
    ]
    resumed = opened.get("resume")
    right = (resumed and resumed["step"]) == (newest and newest["step"])
    return right and not stale and not _committed(stage, prefix)


def _committed(stage: Stage, prefix: str) -> bool:
    return any(prefix in found["name"] for entry in _commits(stage.log(), 0) for found in entry["objects"])


def _commits(entries: list[dict[str, Any]], generation: int) -> list[dict[str, Any]]:
    """Commits of a generation at least as new."""
    return [entry for entry in entries if entry["kind"] == "commit" and entry["generation"] >= generation]
