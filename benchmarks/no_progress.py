"""No progress: does the ladder end a run that only has bad luck, and does it end one that can never go on?

python benchmarks/no_progress.py [--quick]: a JSON line a figure. Simulated: 30 days of runs on 1,024 to 16,384 GPUs
with 0.5 to 3 failures per 1,000 GPU-days (what is published of large runs), each failure of a random class; the ladder
is the coordinator's own (`tessera_coordinator.core.ladder`), the rest of the run is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from itertools import count

from tessera_api.failure import FailureClass, Rung
from tessera_coordinator.core.causes import Cause
from tessera_coordinator.core.ladder import Ladder

RUNS, QUICK_RUNS = 10_000, 20
DAYS = 30
DAY = 86_400.0
STEP_SECONDS = 10.0
COMMIT_STEPS = 60
"""Steps between two commits: what is lost at most."""
START_SECONDS = 120.0
"""From a failure to the next step."""
SHARES = {
    FailureClass.LOST_NODE: 0.40,
    FailureClass.WORKER_CRASH: 0.25,
    FailureClass.SICK_DEVICE: 0.15,
    FailureClass.HANG: 0.10,
    FailureClass.UNKNOWN: 0.10,
}
PLACES = 3
"""Lines at which sound programs on bad hardware crash and hang: few, those where the host waits for the device."""
NODES_OF = 8
"""GPUs of a node."""


@dataclass(frozen=True)
class Fleet:
    """A run's machines."""

    gpus: int
    failures: float
    """Per 1,000 GPU-days."""

    @property
    def gap(self) -> float:
        """Mean seconds between two failures."""
        return DAY * 1000 / (self.gpus * self.failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    runs = QUICK_RUNS if quick else RUNS
    for fleet in (Fleet(gpus, rate) for gpus in (1024, 4096, 16_384) for rate in (0.5, 3.0)):
        pool = causes(random.Random(0), fleet)
        ended = sum(ends(random.Random(seed), fleet, pool) for seed in range(runs))
        what = f"healthy runs on {fleet.gpus} GPUs, {fleet.failures} failures per 1,000 GPU-days, ended"
        told(what, ended, f"of {runs}", "0", ended == 0, quick)
    tries = deterministic()
    told("a crash at one line of one node, and of the next: generations until the end", tries, "", "ends", True, quick)
    alive, pause = flapping(random.Random(1))
    told("a link that flaps for 5 minutes: seconds until the next try after it", pause, "s", "<= 60 s", alive, quick)


def told(name: str, value: float, unit: str, goal: str, holds: bool, quick: bool) -> None:
    document = {"name": name, "value": value, "spread": [], "unit": unit, "goal": goal, "holds": holds, "quick": quick}
    print(json.dumps(document), flush=True)


def causes(chance: random.Random, fleet: Fleet) -> list[Cause]:
    """A few thousand failures, from which each run draws."""
    classes = chance.choices(list(SHARES), list(SHARES.values()), k=20_000)
    return [_cause(failure, chance, fleet) for failure in classes]


def _cause(failure: FailureClass, chance: random.Random, fleet: Fleet) -> Cause:
    rank = chance.randrange(fleet.gpus)
    node = f"n{rank // NODES_OF}"
    said = failure in (FailureClass.WORKER_CRASH, FailureClass.HANG)
    place = f"train.py:{chance.randrange(PLACES)}" if said else ""
    return Cause(failure, place, node, rank, nodes=frozenset([node]), ranks=frozenset([rank]))


def ends(chance: random.Random, fleet: Fleet, pool: list[Cause]) -> bool:
    """Whether the ladder ends this run within its days."""
    ladder, now, committed, best = Ladder(), 0.0, 0, -1
    while now < DAYS * DAY:
        until = chance.expovariate(1 / fleet.gap)
        now += until
        made = int(max(0.0, until - START_SECONDS - ladder.pause_s) / STEP_SECONDS)
        highest = committed + made if made else -1
        ladder.over(highest)
        if ladder.climb(chance.choice(pool), highest, best).rung is Rung.END:
            return True
        best = max(best, highest)
        committed += made - made % COMMIT_STEPS
    return False


def deterministic() -> int:
    """A program that crashes at one line, wherever its rank is: generations until the run ends."""
    ladder, node = Ladder(), 0
    for tries in count(1):
        ladder.over(99)
        met, rank = frozenset([f"n{node}"]), frozenset([0])
        cause = Cause(FailureClass.WORKER_CRASH, "train.py:7 KeyError", f"n{node}", 0, nodes=met, ranks=rank)
        ruling = ladder.climb(cause, 99, 99)
        if ruling.rung is Rung.END:
            return tries
        node += ruling.rung in (Rung.REPLACE, Rung.ELSEWHERE)
    raise AssertionError


def flapping(chance: random.Random) -> tuple[bool, float]:
    """Collectives break for 5 minutes, at most 10 s after each start. Whether the run lives, and for how long it then
    still waits at most."""
    ladder, now = Ladder(chance.random), 0.0
    while now < 300:
        ladder.over(-1)
        if ladder.climb(Cause(FailureClass.UNKNOWN, ""), -1, 500).rung is Rung.END:
            return False, 0.0
        now += 10 * chance.random() + ladder.pause_s
    return True, round(ladder.pause_s, 1)


if __name__ == "__main__":
    main()
