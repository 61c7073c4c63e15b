"""Snapshots in memory: what a lost node costs, and a save that is cut short.

python benchmarks/snapshots.py [--quick] [--tries N] [--only lost|slow] [--work DIR]: a JSON line a figure.

`lost`: the figures' workload with a snapshot every 2 steps and no checkpoint at all, so that there is none to read; a
node chosen at random is killed at a moment chosen at random. `slow`: 1 million parameters, saves that take 20 s; all
trainers, or one node chosen at random, are killed 5 s into one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from recovery_figures import say_kept
from recovery_stage import STEP_SECONDS, Stage, require
from workload import Workload

TRIES = 20
EVERY = 2
NEVER = 1_000_000
SAVE_SECONDS = 20.0
INTO_SECONDS = 5.0
BETWEEN_SAVES = 40
"""Steps; a few seconds of the small model's."""
SLOW = Path(__file__).with_name("slow_storage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--only", choices=("lost", "slow"))
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    tries = 1 if options.quick else options.tries
    with tempfile.TemporaryDirectory(prefix="snapshots-", dir=options.work, ignore_cleanup_errors=True) as folder:
        if options.only != "slow":
            lost(Path(folder), tries, options.quick)
        if options.only != "lost" and not options.quick:
            slow(Path(folder), tries)


def lost(work: Path, tries: int, quick: bool) -> None:
    """Steps lost, and where the next generation began."""
    chance, lost_steps, from_memory = random.Random(7), list[int](), 0
    small = Workload.usual(quick)
    workload = Workload(small.recipe, every=NEVER, snapshot_every=EVERY)
    with Stage(work, "lost", workload) as stage:
        for number in range(tries):
            stage.settle()
            generation = stage.lab.generation()["generation"]
            time.sleep(chance.uniform(0.0, 2 * stage.step_seconds(generation)))
            victim = chance.choice(stage.lab.members())
            stage.episode(lambda name=victim: stage.kill(name), "NodeLost", victim)  # type: ignore[misc]
            incident = newest_incident(stage)
            lost_steps.append(incident["steps_lost"])
            from_memory += stage.lab.generation()["resume"]["holders"] is not None
            print(json.dumps({"try": number, "victim": victim, "lost": lost_steps[-1]}), file=sys.stderr, flush=True)
            stage.replace()
        require(not (stage.lab.directory.root / "checkpoints").exists(), "a checkpoint was stored")
    name = f"node killed at random, snapshots every {EVERY} steps: steps lost"
    figure = {"name": name, "value": median(lost_steps), "spread": [min(lost_steps), max(lost_steps)]}
    holds = max(lost_steps) <= EVERY
    print(json.dumps({**figure, "unit": "steps", "goal": f"<= {EVERY}", "holds": holds, "quick": quick}), flush=True)
    say_kept("node killed at random: begun from memory, no checkpoint there to read", tries, from_memory, "all", quick)


def newest_incident(stage: Stage) -> dict[str, Any]:
    """Once it is known what was lost."""

    def probe() -> dict[str, Any] | None:
        paths = sorted(stage.lab.directory.incidents.glob("*.json"))
        found: dict[str, Any] = json.loads(paths[-1].read_text()) if paths else {}
        return found if found.get("steps_lost") is not None else None

    told: dict[str, Any] = stage.lab.wait_for("the incident", probe, STEP_SECONDS)
    return told


def slow(work: Path, tries: int) -> None:
    """Where training goes on after a save was cut short."""
    with slow_stage(work) as stage:
        chance = random.Random(7)
        workers = sum(cut_short(stage, number, lambda: kill_trainers(stage)) for number in range(tries))
        nodes = 0
        for number in range(tries):
            stage.settle()
            nodes += cut_short(stage, number, lambda: stage.kill(chance.choice(stage.lab.members())))
            stage.replace()
    for who, kept in (("all trainers", workers), ("a node", nodes)):
        name = f"saves of {SAVE_SECONDS:.0f} s, {who} killed {INTO_SECONDS:.0f} s into one"
        say_kept(name, tries, kept, "resumed from that step or a newer one", False)


def slow_stage(work: Path) -> Stage:
    """The small model, on a storage on which each part takes 20 s."""
    path = os.pathsep.join(filter(None, (str(SLOW), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path, "SLOW_PUT_SECONDS": str(SAVE_SECONDS)}
    return Stage(work, "slow", Workload("llama-1m", every=BETWEEN_SAVES), environment)


def cut_short(stage: Stage, number: int, hurt: Callable[[], float]) -> bool:
    """Hurts the run 5 s into the first save of its generation. Whether it goes on from that step or a newer one."""
    lab = stage.lab
    before = lab.generation()["generation"]
    begun = lab.wait_for("a save", lambda: first_save(stage, before), STEP_SECONDS)
    time.sleep(max(0.0, begun["time"] + INTO_SECONDS - time.time()))
    hurt()
    lab.wait_step(0, STEP_SECONDS, before + 1)
    resume = lab.generation()["resume"]
    said = {"try": number, "save": begun["step"], "resumed": resume["step"], "holders": resume["holders"]}
    print(json.dumps(said), file=sys.stderr, flush=True)
    return bool(resume["step"] >= begun["step"])


def first_save(stage: Stage, generation: int) -> dict[str, Any] | None:
    due = (line for line in stage.steps(generation) if line["step"] % BETWEEN_SAVES == 0)
    return next(due, None)


def kill_trainers(stage: Stage) -> float:
    """SIGKILL to all of them."""
    began = time.time()
    for name in stage.lab.members():
        for pid in stage.trainers(name):
            os.kill(pid, signal.SIGKILL)
    return began


if __name__ == "__main__":
    main()
