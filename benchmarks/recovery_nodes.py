"""What happens to nodes: killed, fallen silent, a worker of theirs killed, a worker that the kernel does not let go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recovery_figures import Goal, each, say_kept, say_seconds
from recovery_stage import Episode, Stage, require
from workload import Workload

FORMATION_SECONDS = 6.0
TOLD = "stopping the workers:"
"""What an agent logs when its coordinator tells it that its generation is over."""


def note(figure: str, number: int, episode: Episode) -> None:
    """For whoever watches: the times of one try, as they come."""
    times = {key: round(value, 3) for key, value in vars(episode).items()}
    print(json.dumps({"try": number, "of": figure, **times, "load": os.getloadavg()[0]}), file=sys.stderr, flush=True)


def say_episodes(what: str, episodes: list[Episode], goals: tuple[Goal | None, Goal], quick: bool) -> None:
    """The figures of a kind of loss."""
    detected, next_step = goals
    if detected is not None:
        say_seconds(f"{what}: detected", [one.detected for one in episodes], detected, quick)
    say_seconds(f"{what}: next step", [one.gap for one in episodes], next_step, quick)
    say_seconds(f"{what}: median step that was subtracted", [one.step_seconds for one in episodes], None, quick)
    say_seconds(f"{what}: highest earlier step passed", [one.passed for one in episodes], None, quick)


def killed(work: Path, tries: int, quick: bool) -> None:
    """SIGKILL of a node, every second time that of rank 0."""
    with Stage(work, "killed", Workload.usual(quick)) as stage:
        episodes = []
        for number in range(tries):
            stage.settle()
            members = stage.lab.members()
            victim = members[0] if number % 2 == 0 else members[1 + number // 2 % 2]
            episodes.append(stage.episode(lambda name=victim: stage.kill(name), "NodeLost", victim))  # type: ignore[misc]
            note("node killed", number, episodes[-1])
            stage.replace()
    say_episodes("node killed by SIGKILL", episodes, (Goal(0.8, 1.5), Goal(2.0, 6.0)), quick)


def silent(work: Path, tries: int, quick: bool) -> None:
    """SIGSTOP of all that a node has; it is continued once training has gone on."""
    with Stage(work, "silent", Workload()) as stage:
        episodes, kept = [], 0
        for number in range(tries):
            stage.settle()
            victim = stage.lab.members()[number % 3]
            stop = lambda name=victim: stage.lab.signal_node(name, signal.SIGSTOP)  # noqa: E731
            episodes.append(stage.episode(stop, "NodeLost", victim))
            note("node silent", number, episodes[-1])
            kept += _continued(stage, victim)
    say_episodes("node silent (SIGSTOP)", episodes, (each(3.5), Goal(6.0, 9.0)), quick)
    say_kept("silent node continued later", tries, kept, "told to start anew, no split brain", quick)


def _continued(stage: Stage, victim: str) -> bool:
    lab = stage.lab
    now, generation = time.time(), lab.generation()["generation"]
    log = lab.directory.agent_log(victim)
    known = log.read_text().count(TOLD)
    lab.signal_node(victim, signal.SIGCONT)
    lab.wait_event("NodeSeen", now, victim)
    lab.wait_for("the order to start anew", lambda: log.read_text().count(TOLD) > known)
    stage.settle(steps=3)
    written = {entry["generation"] for entry in stage.log() if entry["kind"] == "commit" and entry["time"] > now}
    return lab.generation()["generation"] == generation and written <= {generation} and victim not in lab.members()


def worker_killed(work: Path, tries: int, quick: bool) -> None:
    """SIGKILL of one trainer: everybody's trainers start anew, and no node is lost."""
    say_worker_killed(work, tries, quick, Workload.usual(quick), "one worker killed", Goal(1.5, 3.0))


def say_worker_killed(work: Path, tries: int, quick: bool, workload: Workload, what: str, goal: Goal) -> None:
    """The figures of it, for any workload."""
    with Stage(work, f"worker-{workload.compile}", workload, {"LOGLEVEL": "INFO"}) as stage:
        episodes, kept = [], 0
        for number in range(tries):
            stage.settle()
            lab, members = stage.lab, stage.lab.members()
            agents = {name: lab.nodes[name].pid for name in members}
            used, victim = _restarts_used(stage, members), members[number % 3]
            [worker] = stage.trainers(victim)

            def hurt(pid: int = worker) -> float:
                now = time.time()
                os.kill(pid, signal.SIGKILL)
                return now

            episodes.append(stage.episode(hurt, "GenerationOver"))
            note(what, number, episodes[-1])
            same = lab.members() == members and all(lab.nodes[name].poll() is None for name in agents)
            expected = {**used, victim: used[victim] + 1}  # that the victim's own says so shows that they do say it
            kept += same and lab.event("NodeLost") is None and _restarts_used(stage, members) == expected
    say_episodes(what, episodes, (None, goal), quick)
    say_kept(f"{what}: other nodes", tries, kept, "no node lost, no restart budget of another touched", quick)


def _restarts_used(stage: Stage, nodes: list[str]) -> dict[str, int]:
    """How often torchrun's agents say that they used up a restart: they do at log level INFO."""
    return {name: stage.lab.directory.agent_log(name).read_text().count("attempts left") for name in nodes}


def stuck(work: Path, tries: int, quick: bool) -> None:
    """A node beats and can't stop its worker, which the kernel holds in a write to a frozen file system."""
    lacking = [program for program in ("fsfreeze", "mkfs.ext4", "mount") if not shutil.which(program)]
    if os.geteuid() != 0 or lacking or not Path("/dev/loop-control").exists():
        print("a held worker needs root, fsfreeze, mkfs.ext4, mount and loop devices: left out", file=sys.stderr)
        return
    with mounted() as place, Stage(work, "stuck", Workload()) as stage:
        victim, formed = stage.add_node(TESSERA_EVIDENCE=str(place / "evidence")), []
        for number in range(tries):
            _make_member(stage, victim)
            formed.append(_seconds_to_form_without(stage, place, victim))
            print(json.dumps({"try": number, "of": "stuck", "formed": formed[-1]}), file=sys.stderr, flush=True)
    say_seconds("worker held by the kernel: formed without it, after detection", formed, each(FORMATION_SECONDS), quick)


def _make_member(stage: Stage, victim: str) -> None:
    """Kill members until the node takes the place of one."""
    stage.settle(steps=3)
    while victim not in stage.lab.members():
        stage.kill(next(name for name, role in stage.roles().items() if role == "spare" and name != victim))
        stage.kill(stage.lab.members()[-1])
        stage.replace()
        stage.replace()
        stage.settle(steps=3)


def _seconds_to_form_without(stage: Stage, place: Path, victim: str) -> float:
    lab = stage.lab
    before, [trainer] = lab.generation()["generation"], stage.trainers(victim)
    other = next(name for name in lab.members() if name != victim)
    subprocess.run(["fsfreeze", "--freeze", place], check=True)
    try:
        lab.wait_for("the worker is held", lambda: _held_by_kernel(trainer), 60)
        now = time.time()
        os.kill(stage.trainers(other)[0], signal.SIGKILL)
        over = lab.wait_event("GenerationOver", now)
        opened = lab.wait_event("GenerationOpened", now)
        require(victim not in lab.members(), f"{victim} is in the new generation with a worker that still lives")
        lab.wait_step(0, 60, before + 1)
        require(lab.event("NodeLost", now, victim) is None, f"{victim} beats, and was declared lost")
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", place], check=True)
    return float(opened["time"] - over["time"])


def _held_by_kernel(pid: int) -> bool:
    """In uninterruptible sleep, seen twice."""
    for _ in range(2):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "D":
            return False
        time.sleep(0.2)
    return True


@contextmanager
def mounted() -> Iterator[Path]:
    """A small file system of its own, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        image, place = Path(folder) / "image", Path(folder) / "mounted"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)
