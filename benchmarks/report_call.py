"""What a report costs the training thread: the time that `run.step` takes, with ten named numbers, one call in 2 ms.

python benchmarks/report_call.py [--quick]: a JSON line a figure. The other end of the line reads in another process, as
the agent does; writing is the matter of a thread of the trainer's, whose wish for the interpreter's lock is included.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time

from tessera_run import Run

CALLS, QUICK_CALLS = 20_000, 2_000
PAUSE_SECONDS = 0.002
GOAL_MICROSECONDS = 50.0
NUMBERS = {f"number_{name}": 0.1 + place for place, name in enumerate("abcdefghij")}
WELCOME = {
    "rank": 0,
    "local_rank": 0,
    "world_size": 1,
    "term": 1,
    "generation": 1,
    "nonce": "n",
    "skips": [],
    "resume": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    mine, theirs = socket.socketpair()
    if (reader := os.fork()) == 0:
        mine.close()
        while theirs.recv(1 << 16):
            pass
        os._exit(0)
    theirs.close()
    taken = measured(Run(mine, WELCOME), QUICK_CALLS if options.quick else CALLS)
    os.waitpid(reader, 0)
    say("report call: median", taken[len(taken) // 2], None, options.quick)
    say("report call: 99th percentile", taken[len(taken) * 99 // 100], GOAL_MICROSECONDS, options.quick)


def measured(run: Run, calls: int) -> list[float]:
    """Microseconds of each call, ascending."""
    taken = []
    for step in range(calls):
        time.sleep(PAUSE_SECONDS)
        began = time.perf_counter()
        run.step(step, step, 2.5, **NUMBERS)
        taken.append((time.perf_counter() - began) * 1e6)
    run.close()
    return sorted(taken)


def say(name: str, value: float, goal: float | None, quick: bool) -> None:
    holds = None if goal is None else value <= goal
    figure = {"name": name, "value": round(value, 1), "spread": None, "unit": "µs", "holds": holds, "quick": quick}
    print(json.dumps({**figure, "goal": f"<= {goal:.0f} µs" if goal else None}), flush=True)


if __name__ == "__main__":
    main()
