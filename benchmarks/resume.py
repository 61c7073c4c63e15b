"""Resume: everything is killed at random instants around and inside saves, and each start goes on from the newest
committed checkpoint: never from a torn one, never from an older one.

One node with two trainers, so that a checkpoint has two parts of 30 MB (5 million parameters). Instants come from a
seeded random: half of them lie within a save (from the first sight of a part on), the others anywhere. What is
checked at each start: the log's `open` entry resumes from the last commit before it; every object of that commit has
its size and sha256; the first step follows it; and each step that was computed twice had the same loss to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoints import damage, newest_commit
from lab import Lab
from workload import NAME, Workload, dataset

from tessera_api.resolved_run import ResolvedDataset
from tessera_store.names import PARTS

INSTANTS, QUICK_INSTANTS = 50, 3
SEED = 20261124
START_SECONDS = 300.0
INSIDE_SECONDS = 0.1
LEAST_INSIDE = 0.25
"""The share of instants that must have cut a save short: it left a part half written, or parts that no commit names."""
LEAST_BYTES = 1 << 20
AROUND_SECONDS = 1.5
EVERY = 3


class Attempts:
    """One run, started and killed over and over."""

    def __init__(self, root: Path, data: ResolvedDataset) -> None:
        manifest = Workload("llama-20m", 1_000_000, 64, 4, EVERY, 1, 1, 1).manifest("resume")
        manifest["spec"]["nodes"] |= {"processesPerNode": 2}
        self._lab = Lab(root, manifest, None, {})
        self._data = data
        self._place, self._parts = root / "checkpoints", root / PARTS
        self._random = random.Random(SEED)
        self._losses: dict[int, float] = {}
        self.cut_short = 0
        """Saves that a kill ended: something of them lies in storage, and no commit names it."""

    def close(self) -> None:
        """Leave no process behind."""
        self._lab.close()

    def once(self, number: int) -> str:
        """Start, look at what it resumed from, kill at an instant. Returns what was wrong, or nothing."""
        lab, before = self._lab, self._log()
        known = len(lab.metrics())
        lab.resolve({NAME: self._data})
        lab.coordinate()
        lab.add_node(f"node-{number}")
        lab.wait_for("first step", lambda: len(lab.metrics()) > known, START_SECONDS)
        first = lab.metrics()[known]
        wrong = self._judge(before, first)
        inside, in_flight = number % 2 == 1, self._in_flight()
        if inside:
            self._await_save()
        time.sleep(self._random.uniform(0, INSIDE_SECONDS if inside else AROUND_SECONDS))
        lab.kill_all()
        self.cut_short += bool(self._in_flight() - in_flight) or self._uncommitted()
        return wrong or self._compare_losses()

    def _in_flight(self) -> set[str]:
        """Temporary files as large as a part of a checkpoint may be."""
        found = set()
        for path in self._parts.glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_size >= LEAST_BYTES:
                    found.add(path.name)
        return found

    def _uncommitted(self) -> bool:
        newest = max(self._place.glob("*"), key=lambda folder: folder.stat().st_mtime, default=None)
        named = {found["name"].split("/")[-2] for entry in self._log() for found in entry.get("objects", ())}
        return newest is not None and newest.name not in named

    def _judge(self, before: list[dict[str, Any]], first: dict[str, Any]) -> str:
        newest = newest_commit(before)
        opened = next(entry for entry in self._log()[len(before) :] if entry["kind"] == "open")
        resumed = opened.get("resume")
        if (resumed and resumed["step"]) != (newest and newest["step"]):
            return f"resumed from {resumed and resumed['step']}, the newest commit is {newest and newest['step']}"
        if newest and resumed and resumed["objects"] != newest["objects"]:
            return f"other objects than those of the commit of step {newest['step']}"
        if torn := damage(self._lab.directory.root, newest):
            return f"damaged: {torn}"
        wanted = newest["step"] + 1 if newest else 1
        return "" if first["step"] == wanted else f"first step {first['step']} instead of {wanted}"

    def _compare_losses(self) -> str:
        for line in self._lab.metrics():
            if self._losses.setdefault(line["step"], line["loss"]) != line["loss"]:
                return f"step {line['step']} had the losses {self._losses[line['step']]} and {line['loss']}"
        return ""

    def _await_save(self) -> None:
        """At the first sight of a part that is being written. (Lab.wait_for looks every 20 ms: too seldom here.)"""
        known, deadline = self._in_flight(), time.monotonic() + 60
        while not self._in_flight() - known:
            if time.monotonic() > deadline:
                raise TimeoutError("no save came in 60 s")
            time.sleep(0.001)

    def _log(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((self._lab.directory.root / "log").glob("0*"))]


def main() -> None:
    options = _options()
    instants = options.instants or (QUICK_INSTANTS if options.quick else INSTANTS)
    with tempfile.TemporaryDirectory(prefix="resume-", ignore_cleanup_errors=True) as folder:
        work = options.work or Path(folder)
        attempts = Attempts(work / f"resume-{os.getpid()}", dataset(work / "data", 512))
        good = 0
        try:
            for number in range(instants + 1):  # the first start begins, every other one resumes
                wrong = attempts.once(number)
                good += not wrong and number > 0
                print(f"start {number}: {wrong or 'right'}", file=sys.stderr, flush=True)
        finally:
            attempts.close()
    figure: dict[str, object] = {
        "name": f"SIGKILL of everything at {instants} instants around and inside saves: right resumes"
    }
    figure |= {"value": good, "spread": None, "unit": f"of {instants}", "goal": "all, from the newest commit"}
    print(f"{attempts.cut_short} of {instants + 1} kills cut a save short", file=sys.stderr, flush=True)
    holds = good == instants and attempts.cut_short >= LEAST_INSIDE * instants
    print(json.dumps({**figure, "holds": holds, "quick": options.quick}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_INSTANTS} instants instead of {INSTANTS}")
    parser.add_argument("--instants", type=int, metavar="N")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep dataset and run here; default: a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
