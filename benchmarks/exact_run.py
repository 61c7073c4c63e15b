"""Exact mode: the same training at every world size and through faults, to the bit.

Compares sha256 of losses, norms, weights with moments, and of the samples that the ranks consumed, as they logged
them, after 200 steps on 1, 2, 3 and 4 nodes, and on 3 nodes through kills, shrinking and growth at odd steps. A
model of one million parameters, 12 units of 64 tokens, a checkpoint every 7 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path

from exact_course import MOST, Course
from exact_evidence import Outcome
from workload import dataset

STEPS, QUICK_STEPS = 200, 20
SIZES, QUICK_SIZES = range(1, MOST + 1), (1, 3)
ROUNDS = 3


def main() -> None:
    options = _options()
    steps = QUICK_STEPS if options.quick else STEPS
    with tempfile.TemporaryDirectory(prefix="exact-", ignore_cleanup_errors=True) as folder:
        work = options.work or Path(folder)
        course = Course(work / f"exact-{os.getpid()}", dataset(work / "data", 512), steps)
        sizes = QUICK_SIZES if options.quick else SIZES
        outcomes = {f"{nodes} nodes": _alone(course, nodes) for nodes in sizes}
        on = ", ".join(map(str, sizes))
        _say(f"sha256 of {steps} steps on {on} nodes: distinct outcomes", outcomes, options.quick)
        if options.quick:
            return
        began = time.monotonic()
        outcome, through = course.through_faults(ROUNDS)
        print(f"through faults: {time.monotonic() - began:.0f} s, world sizes {through}, {outcome}", file=sys.stderr)
        name = f"sha256 of {steps} steps, left alone and through kills, shrinking and growth: distinct outcomes"
        _say(name, {"alone": outcomes["3 nodes"], "through faults": outcome}, options.quick)


def _alone(course: Course, nodes: int) -> Outcome:
    began = time.monotonic()
    outcome = course.alone(nodes)
    print(f"{nodes} nodes: {time.monotonic() - began:.0f} s, {outcome}", file=sys.stderr, flush=True)
    return outcome


def _say(name: str, outcomes: dict[str, Outcome], quick: bool) -> None:
    distinct = len({astuple(outcome) for outcome in outcomes.values()})
    figure = {"name": name, "value": distinct, "spread": None, "unit": "", "goal": "identical: 1"}
    print(json.dumps({**figure, "holds": distinct == 1, "quick": quick}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps on {QUICK_SIZES} nodes, no faults")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep dataset and runs here; default: a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
