"""ETTR: the share of wall time that trained a run which is hurt again and again, in random ways and places.

python benchmarks/ettr.py [--quick] [--every SECONDS] [--minutes N] [--seed N] [--work DIR]: a JSON line a figure; what
each drill said goes to standard error. Three nodes and a spare train 20 million parameters (`tessera local`, hang floor
5 s); every so many seconds a fault is drawn, and who suffers it: a node that trains, the one of rank 0 among them, or
the leading coordinator. The figure takes nothing from the run's own account: it is the time of all steps that count,
each once, as its trainers took it, over the time from the first fault to the end; the account's own stands beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drills import driven, newest, until
from workload import Workload

from tessera_api.drill import OF_COORDINATORS, OF_OUR_TRAINER, OF_THE_API_SERVER, Fault
from tessera_api.run_directory import RunDirectory

FAULTS = tuple(fault for fault in Fault if fault not in OF_OUR_TRAINER | OF_THE_API_SERVER)
"""Without what the loss guard answers: it changes what is trained."""
ALONE_STEPS = 60
"""Steps that nobody disturbs, before the first fault."""
SECONDS = 5.0
"""How long a fault lasts that does."""
TRY_SECONDS = 5.0
"""What a fault needs at least, to be asked for at all."""
GOALS = {60.0: 0.85, 600.0: 0.97}
"""By the seconds from fault to fault."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a minute, a fault every 15 s, a small model")
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="from fault to fault")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    every, minutes = (15.0, 0.5) if options.quick else (options.every, options.minutes)
    workload = Workload("llama-1m" if options.quick else "llama-20m", every=10, hang_seconds=5)
    with tempfile.TemporaryDirectory(dir=options.work) as folder, driven(Path(folder), "hurt", workload) as directory:
        until(directory, ALONE_STEPS, 600.0)
        made, began, before = newest(directory), time.monotonic(), account(directory)
        done = hurt(directory, random.Random(options.seed), every, began + 60.0 * minutes)
        spent, trained, after = time.monotonic() - began, seconds(directory, made), account(directory)
    name = f"ETTR, a failure every {every:g} s for {minutes:g} min"
    goal = None if options.quick else GOALS.get(every)
    say(name, trained / spent, goal, options.quick)
    say(f"{name}: as the run accounts for it", share(before, after), None, options.quick)
    print(json.dumps({"name": f"{name}: faults done", "value": done, "unit": "faults", "quick": options.quick}))


def hurt(directory: RunDirectory, dice: random.Random, every: float, end: float) -> int:
    """Until the end (a monotonic clock's); how many faults were done."""
    done, due = 0, time.monotonic()
    while due < end:
        due += every
        while due - time.monotonic() > TRY_SECONDS:
            if one_fault(directory, dice, due):
                done += 1
                break
        time.sleep(max(0.0, min(due, end) - time.monotonic()))
    return done


def one_fault(directory: RunDirectory, dice: random.Random, due: float) -> bool:
    """Whether it was done: a node that is just lost to a fault before cannot be hurt."""
    fault, node = dice.choice(FAULTS), dice.choice(training(directory))
    words = ["--fault", fault.value, "--seconds", str(SECONDS)]
    words += [] if fault in OF_COORDINATORS else ["--node", node]
    command = [sys.executable, "-m", "tessera_cli", "drill", str(directory.root), *words]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=due - time.monotonic())
        out, said = tried.stdout, tried.stdout + tried.stderr
    except subprocess.TimeoutExpired as error:
        out = said = (error.stdout or b"").decode() + " (no answer in time)"
    print(f"{fault.value} {node}: {' | '.join(said.splitlines())}", file=sys.stderr, flush=True)
    return "is done to" in out


def training(directory: RunDirectory) -> list[str]:
    """The nodes that train now."""
    nodes = json.loads(directory.nodes.read_text())
    return sorted(name for name, node in nodes.items() if node["role"] != "spare")


def seconds(directory: RunDirectory, after: int) -> float:
    """Of all steps after this one, each as the last generation that made it took it."""
    lines = directory.metrics.read_text().splitlines(keepends=True)
    steps = [json.loads(text) for text in lines if text.endswith("\n")]
    last = {step["step"]: step for step in sorted(steps, key=lambda step: int(step["generation"]))}
    return sum(float(step["seconds"]) for number, step in last.items() if number > after)


def account(directory: RunDirectory) -> dict[str, float]:
    """Node-seconds by cause, as the status shows them."""
    return {one["cause"]: one["seconds"] for one in json.loads(directory.status.read_text()).get("nodeSeconds", [])}


def share(before: dict[str, float], after: dict[str, float]) -> float:
    """Of the node-seconds between, without those of spares, those that trained."""
    spent = {cause: after[cause] - before.get(cause, 0.0) for cause in after}
    trained = spent.get("compute", 0.0) + spent.get("uncommitted", 0.0)
    return trained / (sum(spent.values()) - spent.get("spare", 0.0))


def say(name: str, value: float, goal: float | None, quick: bool) -> None:
    """A line of this benchmark: a share in percent."""
    said: dict[str, object] = {"name": name, "value": round(100 * value, 2), "spread": None, "unit": "%"}
    said |= {"goal": f">= {100 * goal:g} %", "holds": value >= goal} if goal else {"goal": None, "holds": None}
    print(json.dumps({**said, "quick": quick}), flush=True)


if __name__ == "__main__":
    main()
