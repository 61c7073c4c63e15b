"""False alarms: is a healthy run ever harmed, because somebody could not see that it was well?

python benchmarks/false_alarms.py [--quick] [--hours H] [--runs N] [--seed N] [--work DIR]: a JSON line a figure; what
is done goes to standard error. Runs of three real trainers each (1 million parameters) go on side by side while, drawn
at random, all cores are kept busy by others, the storage stalls for 5 s, coordinators are paused, or killed and
restarted, and the clocks of all processes of a run step, forward and back. An action is a generation that ends, a node
that is lost, a hang, an update left out, a rewind: none is due.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lab import Lab
from workload import NAME, Workload, dataset

from tessera_api.resolved_run import ResolvedDataset

HOURS, RUNS = 4.0, 4
QUICK_SECONDS = 40.0
BETWEEN = (5.0, 15.0)
"""Seconds from one disturbance to the next, of each run."""
STALL_SECONDS = PAUSE_SECONDS = 5.0
NOISE_SECONDS = (3.0, 12.0)
CLOCK_STEPS = (-3600.0, -30.0, 30.0, 3600.0)
UNSTEADY = Path(__file__).with_name("unsteady")
ACTIONS = ("GenerationOver", "NodeLost", "Hang", "Rewound", "Skipped", "WorkerFailed", "CollectiveError")
NOTES = ("UpdateLeftOut", "LossDrift")
BEGUN = 20


class Unsteady:
    """A run in unsteady surroundings."""

    def __init__(self, folder: Path, number: int, data: ResolvedDataset, dice: random.Random) -> None:
        self.number, self.dice = number, dice
        self._stall, self._clock = folder / f"stall-{number}", folder / f"clock-{number}"
        self._clock.write_text("0")
        path = os.pathsep.join([str(UNSTEADY), *filter(None, [os.environ.get("PYTHONPATH")])])
        around = {"UNSTEADY_STALL": str(self._stall), "UNSTEADY_CLOCK": str(self._clock), "PYTHONPATH": path}
        document = Workload("llama-1m", 10_000_000, 64, 6, 20, 3, 1, 3, hang_seconds=15).manifest(f"steady-{number}")
        self.lab = Lab(folder / f"run-{number}", document, None, around)
        self.lab.resolve({NAME: data})
        self.lab.coordinate()
        for node in range(3):
            self.lab.add_node(f"node-{node}")
        self._undo: list[tuple[float, Callable[[], object]]] = []
        self.due = 0.0
        self.done: dict[str, int] = {}

    def begun(self) -> None:
        """Until it trains."""
        self.lab.wait_step(BEGUN, 600.0)
        self.due = time.monotonic()

    def look(self) -> None:
        """Disturb it if that is due, and undo what has lasted long enough."""
        now = time.monotonic()
        for at, undo in [one for one in self._undo if one[0] <= now]:
            undo()
            self._undo.remove((at, undo))
        if now >= self.due:
            self.due = now + self.dice.uniform(*BETWEEN)
            if not self._undo:
                what = self.dice.choice((self.noise, self.stall, self.pause, self.restart, self.step_clock))
                print(f"run {self.number}: {what.__name__}", file=sys.stderr, flush=True)
                self.done[what.__name__] = self.done.get(what.__name__, 0) + 1
                what(now)

    def noise(self, now: float) -> None:
        """All cores are busy with something else."""
        burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
        for burner in burners:
            burner.start()
        self._undo.append((now + self.dice.uniform(*NOISE_SECONDS), lambda: end_all(burners)))

    def stall(self, now: float) -> None:
        """The storage does not answer."""
        self._stall.touch()
        self._undo.append((now + STALL_SECONDS, lambda: self._stall.unlink(missing_ok=True)))

    def pause(self, now: float) -> None:
        """The coordinator stands still."""
        pid = self.lab.coordinators[-1].pid
        os.kill(pid, signal.SIGSTOP)
        self._undo.append((now + PAUSE_SECONDS, lambda: os.kill(pid, signal.SIGCONT)))

    def restart(self, now: float) -> None:
        """The coordinator is killed, and another is started a little later."""
        self.lab.coordinators[-1].kill()
        self.lab.coordinators[-1].wait()
        self._undo.append((now + self.dice.uniform(0.0, 3.0), self.lab.coordinate))

    def step_clock(self, now: float) -> None:
        """The time of day jumps, on all nodes and for the coordinator."""
        off = self.dice.choice(CLOCK_STEPS)
        write(self._clock, str(float(self._clock.read_text()) + off if abs(off) < 3600 else off))

    def actions(self) -> list[str]:
        """What was done to it that it had not deserved."""
        events = self.lab.events()
        harmful = [event for event in events if event["name"] in ACTIONS]
        harmful += [event for event in events if event["name"] == "Note" and event["message"].startswith(NOTES)]
        return [f"{event['name']} {event.get('node') or ''} {event['message']}" for event in harmful]


def write(path: Path, text: str) -> None:
    """Whole, for whoever reads at this moment."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def end_all(burners: list[multiprocessing.Process]) -> None:
    """No more noise."""
    for burner in burners:
        burner.kill()
        burner.join()


def burn() -> None:
    """Computes for nothing."""
    while True:
        sum(range(100_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run, for less than a minute")
    parser.add_argument("--hours", type=float, default=HOURS, help="of all runs in sum")
    parser.add_argument("--runs", type=int, default=RUNS, help="side by side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    count = 1 if options.quick else options.runs
    seconds = QUICK_SECONDS if options.quick else 3600.0 * options.hours / count
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        data = dataset(Path(folder) / "data", vocabulary=512)
        runs: list[Unsteady] = []
        try:
            for number in range(count):
                runs.append(Unsteady(Path(folder), number, data, random.Random(options.seed * 1000 + number)))
            for run in runs:
                run.begun()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for run in runs:
                    run.look()
                time.sleep(0.05)
            report(runs, seconds, options.quick)
        finally:
            for run in runs:
                run.lab.close()


def report(runs: list[Unsteady], seconds: float, quick: bool) -> None:
    """The figures."""
    actions = [action for run in runs for action in run.actions()]
    for action in actions:
        print(action, file=sys.stderr)
    hours = len(runs) * seconds / 3600.0
    done = {what: sum(run.done.get(what, 0) for run in runs) for what in sorted({w for run in runs for w in run.done})}
    words = ", ".join(f"{number} {what}" for what, number in done.items())
    steps = sum(run.lab.metrics()[-1]["step"] for run in runs)
    said = {"name": f"false alarms in {hours:.2g} run-hours", "value": len(actions), "unit": f"actions ({words})"}
    print(json.dumps({**said, "spread": None, "goal": "0", "holds": not actions, "quick": quick}), flush=True)
    said = {"name": f"false alarms in {hours:.2g} run-hours: steps made", "value": steps, "unit": "steps"}
    print(json.dumps({**said, "spread": None, "goal": None, "holds": None, "quick": quick}), flush=True)


if __name__ == "__main__":
    main()
