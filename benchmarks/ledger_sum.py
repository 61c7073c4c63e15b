"""The ledger: is every second of every node counted once, whatever happens to it?

python benchmarks/ledger_sum.py [--quick]: a JSON line a figure. Random sequences of losses, arrivals, commits and other
coordinators (`tests/unit/test_presence.py` plays them); the sum of all causes against a tally of its own.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from figures import line

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.unit.test_presence import Counted

SEQUENCES, QUICK_SEQUENCES = 100, 10
ACTIONS = 25
PROMISED = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    errors = [error(seed) for seed in range(QUICK_SEQUENCES if quick else SEQUENCES)]
    print(line("ledger, sum of all causes against time allocated, per node", errors, "s", PROMISED, quick))


def error(seed: int) -> float:
    """The largest difference in a sequence, in seconds a node."""
    run, worst = Counted(random.Random(seed)), 0.0
    for _ in range(4):
        run.arrive()
    for _ in range(ACTIONS):
        run.act()
        worst = max(worst, abs(run.ledger.total - run.allocated) / len(run.world.agents))
    return worst


if __name__ == "__main__":
    main()
