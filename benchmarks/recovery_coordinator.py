"""What happens to the coordinator: killed, stopped, cut off from the network, doubled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lab import free_port
from recovery_figures import each, say_kept, say_seconds
from recovery_stage import STEP_SECONDS, Stage, require
from workload import Workload

AWAY_SECONDS = 10.0
DROP_SECONDS = 5.0
AFTERWARDS_SECONDS = 8.0
"""Training is watched so long afterwards: twice what silence and formation take together would need to show."""
SUPERSEDED = 76


def undisturbed(stage: Stage, hurt: Callable[[], object]) -> bool:
    """Whether `hurt` led to nothing: the same generation, workers and nodes, and each step done once, in order."""
    lab = stage.lab
    generation = lab.generation()["generation"]
    workers = {name: stage.trainers(name) for name in lab.members()}
    lost = sum(event["name"] == "NodeLost" for event in lab.events())
    hurt()
    deadline = time.monotonic() + AFTERWARDS_SECONDS
    step = lab.metrics()[-1]["step"]
    lab.wait_for("time passed", lambda: time.monotonic() >= deadline, AFTERWARDS_SECONDS + 5)
    lab.wait_step(step + 3, STEP_SECONDS)
    done = [line["step"] for line in stage.steps(generation)]
    return (
        lab.generation()["generation"] == generation
        and {name: stage.trainers(name) for name in lab.members()} == workers
        and sum(event["name"] == "NodeLost" for event in lab.events()) == lost
        and done == list(range(done[0], done[0] + len(done)))
    )


def _tell(figure: str, number: int, **said: object) -> None:
    line = {"try": number, "of": figure, **said, "load": os.getloadavg()[0]}
    print(json.dumps(line), file=sys.stderr, flush=True)


def away(work: Path, tries: int, quick: bool) -> None:
    """Killed, and restarted after ten seconds."""
    with Stage(work, "away", Workload()) as stage:
        kept, back, seconds = 0, [], []
        for number in range(tries):
            stage.settle(steps=3)
            kept += undisturbed(stage, lambda: back.append(_kill_and_restart(stage)))
            lines = stage.steps(stage.lab.generation()["generation"])
            seconds.append(next(line["time"] for line in lines if line["time"] > back[-1]) - back[-1])
            _tell("coordinator away", number, kept=kept, next_step=seconds[-1])
    what = "coordinator killed, restarted after 10 s"
    say_kept(what, tries, kept, "no step repeated, no worker restarted", quick)
    say_seconds(f"{what}: next step after it is back", seconds, each(8.0), quick)


def _kill_and_restart(stage: Stage, meanwhile: Callable[[], object] = lambda: None) -> float:
    """Returns the Unix time at which it was back, by its own event."""
    lab = stage.lab
    lab.coordinators[-1].kill()
    lab.coordinators[-1].wait(10)
    began = time.monotonic()
    meanwhile()
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
    now = time.time()
    lab.coordinate()
    return float(lab.wait_event("CoordinatorStarted", now)["time"])


def away_and_node_killed(work: Path, tries: int, quick: bool) -> None:
    """As `away`, and a node is killed while nobody leads."""
    with Stage(work, "away-node", Workload()) as stage:
        seconds, subtracted = [], []
        for number in range(tries):
            stage.settle()
            victim, before = stage.lab.members()[number % 3], stage.lab.generation()["generation"]
            subtracted.append(stage.step_seconds(before))
            back = _kill_and_restart(stage, partial(stage.kill, victim))
            first = stage.lab.wait_step(0, STEP_SECONDS, before + 1)
            seconds.append(max(0.0, first["time"] - back - subtracted[-1]))
            _tell("coordinator away, node killed", number, next_step=seconds[-1], step=subtracted[-1])
            stage.replace()
    what = "coordinator killed and a node meanwhile"
    say_seconds(f"{what}: next step after it is back", seconds, each(8.0), quick)
    say_seconds(f"{what}: median step that was subtracted", subtracted, None, quick)


def paused(work: Path, tries: int, quick: bool) -> None:
    """SIGSTOP for ten seconds, then SIGCONT."""

    def hurt(stage: Stage) -> None:
        leader = stage.lab.coordinators[-1].pid
        os.kill(leader, signal.SIGSTOP)
        time.sleep(AWAY_SECONDS)
        os.kill(leader, signal.SIGCONT)

    _no_action(work, "paused", tries, hurt, "coordinator SIGSTOP 10 s, then CONT", quick)


def cut_off(work: Path, tries: int, quick: bool) -> None:
    """Its port drops all packets for five seconds."""
    if os.geteuid() != 0 or not shutil.which("iptables"):
        print("dropping a port's packets needs root and iptables: left out", file=sys.stderr)
        return

    def hurt(stage: Stage) -> None:
        ways = ("--dport", "--sport")
        rules = [["INPUT", "-i", "lo", "-p", "tcp", way, str(stage.lab.port), "-j", "DROP"] for way in ways]
        set_up: list[list[str]] = []
        try:
            for rule in rules:
                subprocess.run(["iptables", "-I", *rule], check=True)
                set_up.append(rule)
            time.sleep(DROP_SECONDS)
        finally:
            for rule in set_up:
                subprocess.run(["iptables", "-D", *rule], check=True)

    _no_action(work, "cut-off", tries, hurt, "coordinator's port drops all packets for 5 s", quick)


def _no_action(work: Path, name: str, tries: int, hurt: Callable[[Stage], None], what: str, quick: bool) -> None:
    with Stage(work, name, Workload()) as stage:
        kept = 0
        for number in range(tries):
            stage.settle(steps=3)
            kept += undisturbed(stage, lambda: hurt(stage))
            _tell(name, number, kept=kept)
    say_kept(what, tries, kept, "no action", quick)


def two_alive(work: Path, tries: int, quick: bool) -> None:
    """The leader is stopped, another one takes over at another address and leads; then the old one goes on."""
    kept = 0
    for number in range(tries):
        standby = free_port()
        with Stage(work, f"two-{number}", Workload("llama-1m"), standby=standby) as stage:
            kept += _one_history(stage, standby)
            _tell("two coordinators", number, kept=kept)
    say_kept("two coordinators alive (1M parameters)", tries, kept, "one history, the loser exits", quick)


def _one_history(stage: Stage, standby: int) -> bool:
    lab, old = stage.lab, stage.lab.coordinators[-1]
    os.kill(old.pid, signal.SIGSTOP)
    now, lab.port = time.time(), standby
    lab.coordinate()
    lab.wait_event("CoordinatorStarted", now)
    _leads(stage, since=now)
    os.kill(old.pid, signal.SIGCONT)
    code = old.wait(60)
    require(code == SUPERSEDED, f"the older coordinator ended with {code}")
    _leads(stage, since=time.time())
    entries = stage.log()
    terms = [entry["term"] for entry in entries]
    claims = [entry["term"] for entry in entries if entry["kind"] == "claim"]
    return terms == sorted(terms) and claims == [1, 2]


def _leads(stage: Stage, since: float) -> None:
    """Until the second coordinator has committed, opened a generation for a node that was killed, and has it train."""
    lab, before = stage.lab, stage.lab.generation()["generation"]

    def written(kind: str) -> bool:
        return any(entry["kind"] == kind and entry["term"] == 2 and entry["time"] > since for entry in stage.log())

    lab.wait_for("a commit of the second coordinator", lambda: written("commit"), STEP_SECONDS)
    stage.kill(lab.members()[-1])
    lab.wait_for("a generation of the second coordinator", lambda: written("open"), STEP_SECONDS)
    lab.wait_step(0, STEP_SECONDS, before + 1)
    stage.replace()
    stage.settle(steps=2)
