"""Runs whose blocks are compiled: a worker that is killed, and a node that has never seen the run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from recovery_figures import Goal, say_seconds
from recovery_nodes import say_worker_killed
from recovery_stage import STEP_SECONDS, Stage
from workload import Workload

CARRIED, ALONE = "TESSERA_COMPILED_CODE", "TORCHINDUCTOR_CACHE_DIR"
"""Variables: the folder of a node that has other nodes' code carried to it, and that of one that compiles by itself."""


def _workload(quick: bool) -> Workload:
    return replace(Workload.usual(quick), compile="blocks")


def worker_killed(work: Path, tries: int, quick: bool) -> None:
    """SIGKILL of one trainer."""
    say_worker_killed(work, tries, quick, _workload(quick), "one worker killed, blocks compiled", Goal(4.0, 6.0))


def new_node(work: Path, tries: int, quick: bool) -> None:
    """A node comes to a run that was a node short; its folder of compiled code is empty."""
    seconds: dict[str, list[float]] = {CARRIED: [], ALONE: []}
    with Stage(work, "compiled", _workload(quick), {CARRIED: str(work / "code-of-the-first")}) as stage:
        lab = stage.lab
        lab.wait_for("the code is stored", lambda: any((lab.directory.root / "compiled").glob("*")), STEP_SECONDS)
        for number in range(tries):
            for variable, found in seconds.items():
                found.append(_first_step(stage, variable, work / f"code-{variable}-{number}"))
                print(json.dumps({"try": number, "of": variable, "seconds": found[-1]}), file=sys.stderr, flush=True)
    for variable, words in ((CARRIED, "code carried to it"), (ALONE, "compiling by itself")):
        name = f"new node of a compiled run, {words}: from its generation's opening to the next step"
        say_seconds(name, seconds[variable], None, quick)


def _first_step(stage: Stage, variable: str, folder: Path) -> float:
    stage.settle()
    lab = stage.lab
    stage.kill(next(name for name, role in stage.roles().items() if role == "spare"))
    stage.kill(lab.members()[-1])
    name = stage.add_node(**{CARRIED: ""} | {variable: str(folder)})
    lab.wait_for("it trains", lambda: name in lab.members(), STEP_SECONDS)
    generation = lab.generation()
    first = lab.wait_step(0, STEP_SECONDS, int(generation["generation"]))
    stage.replace()
    return float(first["time"]) - float(generation["time"])
