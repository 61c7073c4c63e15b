"""Overhead: CPU-seconds of coordinator, beats and reporting for each CPU-second of the trainers.

Counts, over a window of undisturbed training, what the kernel says that threads used (/proc/PID/task/TID/schedstat,
nanoseconds) and trainers as a whole (/proc/PID/stat, 10 ms). The coordinator is its process; beats are the agents'
threads but the main one; reporting is the trainers' own two threads to their agent. An agent's main thread is
torchrun's loop, which would run without Tessera: it is said in a figure of its own, with warm processes and thin
clients, which only wait. Keepers, which hash, copy and store what trainers would have to, have one too. What all of
them took to start lies before the window.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from lab import members_of_tree
from recovery_stage import Stage
from workload import Workload

WINDOW_SECONDS, QUICK_SECONDS = 60.0, 15.0
GOAL_PERCENT = 0.5
Threads = dict[tuple[int, int], float]
"""(process, thread): its CPU-seconds so far."""


def main() -> None:
    options = _options()
    window = QUICK_SECONDS if options.quick else WINDOW_SECONDS
    workload = Workload("llama-1m") if options.quick else Workload(every=20)
    with (
        tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True) as folder,
        Stage(options.work or Path(folder), "overhead", workload) as stage,
    ):
        began = _used(stage)
        time.sleep(window)
        ended = _used(stage)
    # Who reports lives as long as its trainer; the thread that writes a checkpoint does not, and is no part of it.
    ended["reporting"] = {key: used for key, used in ended["reporting"].items() if key in began["reporting"]}
    spent = {kind: _between(began[kind], ended[kind]) for kind in began}
    print(json.dumps({"window": window, "load": os.getloadavg(), **spent}), file=sys.stderr, flush=True)
    own = spent["coordinator"] + spent["beats"] + spent["reporting"]
    _say("CPU-seconds of coordinator, beats and reporting / of trainers", own / spent["trainers"], True, options.quick)
    waiting = spent["torchrun's loops"] + spent["warm processes and clients"]
    name = "CPU-seconds of torchrun's loops, warm processes and clients / of trainers"
    _say(name, waiting / spent["trainers"], False, options.quick)
    name = "CPU-seconds of keepers (sealing, copying and storing parts) / of trainers"
    _say(name, spent["keepers"] / spent["trainers"], False, options.quick)


def _say(name: str, share: float, promised: bool, quick: bool) -> None:
    percent = 100 * share
    figure = {"name": name, "value": round(percent, 3), "spread": None, "unit": "%"}
    figure |= {"goal": f"< {GOAL_PERCENT} %", "holds": percent < GOAL_PERCENT} if promised else {}
    print(json.dumps({**figure, "quick": quick}), flush=True)


def _used(stage: Stage) -> dict[str, Threads]:
    """CPU-seconds used so far, by kind."""
    trainers = {pid for name in stage.lab.members() for pid in stage.trainers(name)}
    agents = {process.pid for process in stage.lab.nodes.values()}
    keepers = {
        pid for pid in members_of_tree(*agents) if b"tessera_keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }
    rest = members_of_tree(*agents) - agents - trainers - keepers
    of_agents, of_trainers = _threads(agents), _threads(trainers)
    return {
        "trainers": {(pid, 0): _whole(pid) for pid in trainers},
        "coordinator": _threads([stage.lab.coordinators[-1].pid]),
        "beats": {key: used for key, used in of_agents.items() if key[0] != key[1]},
        "reporting": {key: used for key, used in of_trainers.items() if _speaks(*key)},
        "torchrun's loops": {key: used for key, used in of_agents.items() if key[0] == key[1]},
        "warm processes and clients": _threads(rest),
        "keepers": {(pid, 0): _whole(pid) for pid in keepers},
    }


def _between(began: Threads, ended: Threads) -> float:
    """A thread that began within the window counts whole."""
    return sum(used - began.get(key, 0.0) for key, used in ended.items())


def _threads(pids: Iterable[int]) -> Threads:
    found: Threads = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found[pid, int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def _speaks(pid: int, thread: int) -> bool:
    """Whether a trainer's thread is one of Python's besides the main one: torch names its own, Python's have the
    process's name. The thread that writes a checkpoint is one too, while it lives."""
    names = [Path(f"/proc/{pid}/task/{task}/comm").read_text() for task in (pid, thread)]
    return thread != pid and names[0] == names[1]


def _whole(pid: int) -> float:
    """User and system time of a process with all its threads, those that have ended too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a shorter window")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep dataset and run here; default: a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
