"""What happens to trainers that compute no more while their nodes beat: stopped by the kernel, or never letting go of
the interpreter."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from recovery_figures import each, say_kept, say_seconds
from recovery_nodes import note
from recovery_stage import Episode, Stage
from workload import Workload

HANG_SECONDS = 5
PROGRAM = Path(__file__).parents[1] / "tests" / "train" / "programs" / "tiny_trainer.py"


def stopped(work: Path, tries: int, quick: bool) -> None:
    """SIGSTOP of one trainer, each node's in turn."""
    with Stage(work, "stopped", Workload("llama-1m", hang_seconds=HANG_SECONDS)) as stage:

        def hurt(victim: str) -> float:
            [worker] = stage.trainers(victim)
            now = time.time()
            os.kill(worker, signal.SIGSTOP)
            return now

        def victims(number: int) -> str:
            return stage.lab.members()[number % 3]

        _tell(stage, "a trainer stopped (SIGSTOP)", tries, hurt, victims, quick)


def hogged(work: Path, tries: int, quick: bool) -> None:
    """One trainer computes in C with the interpreter's lock held: no thread of it can say anything."""
    flag = work / "hog"
    environment = {"TINY_HOG": str(flag), "TINY_STEPS": "1000000", "TINY_STEP_SECONDS": "0.1"}
    with Stage(work, "hogged", Workload("llama-1m", hang_seconds=HANG_SECONDS), environment, program=PROGRAM) as stage:

        def hurt(_: str) -> float:
            flag.touch()
            return time.time()

        def victims(_: int) -> str:
            return stage.lab.members()[-1]

        _tell(stage, "a trainer holds the interpreter's lock", tries, hurt, victims, quick)


def _tell(
    stage: Stage,
    what: str,
    tries: int,
    hurt: Callable[[str], float],
    victims: Callable[[int], str],
    quick: bool,
) -> None:
    episodes: list[Episode] = []
    named = 0
    for number in range(tries):
        stage.settle()
        victim, members = victims(number), stage.lab.members()
        episodes.append(stage.episode(lambda name=victim: hurt(name), "Hang"))  # type: ignore[misc]
        note(what, number, episodes[-1])
        event = [event for event in stage.lab.events() if event["name"] == "Hang"][-1]
        named += event["node"] == victim and stage.lab.members() == members
    limit = f"no computation for {HANG_SECONDS} s"
    say_seconds(f"{what}: found ({limit})", [one.detected for one in episodes], each(HANG_SECONDS + 1.0), quick)
    say_seconds(f"{what}: next step", [one.gap for one in episodes], None, quick)
    say_kept(f"{what}: named", tries, named, "its node, and no node lost", quick)
