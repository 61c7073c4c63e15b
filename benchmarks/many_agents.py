"""Many agents: how soon a coordinator on one core makes the next generation of thousands of nodes, and what it costs.

python benchmarks/many_agents.py [--quick] [--agents N ...] [--only NAME ...]: a JSON line a figure. The coordinator is
the real one, in a process that has one core; its agents speak the real protocol (greeting, authenticated frames, hello,
join, beats, steps, reports) from another process on another core, and have nothing behind them: they stop their workers
at once, and make a step each second. *Formed* is the time from the end of a generation (the coordinator's own event) to
the moment at which the last node has its seat in the next.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from lab import Lab, manifest
from simulated_agents import Crowd

SIZES = (2048, 8192)
QUICK_SIZES = (256,)
FORMED_GOALS = {2048: 1.0, 8192: 4.0}
CPU_GOALS = {2048: 15.0, 8192: 60.0}
TRIES, QUICK_TRIES = 5, 2
STEADY_SECONDS, QUICK_STEADY_SECONDS = 20.0, 5.0
LIMIT_SECONDS = 180.0


class Story:
    """A run of so many nodes, and what is done to it."""

    def __init__(self, folder: Path, count: int, quick: bool) -> None:
        document = manifest("crowd", count=count, min=1, max=count)
        document["spec"]["training"] |= {"globalBatch": count, "tokens": str(count * 64 * 1_000_000)}
        document["spec"]["checkpoint"] = {"every": 1_000_000, "keep": 3}
        self.lab = Lab(folder, document, None, {})
        self.lab.resolve()
        self.count, self.quick = count, quick
        self.crowd = Crowd(self.lab.port, self.lab.directory.key.read_bytes(), count)
        self.dice = random.Random(count)

    def coordinate(self) -> subprocess.Popen[bytes]:
        """The coordinator, on the first core; all else has the second."""
        process = self.lab.coordinate()
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0) | CORES)})
        return process

    def say(self, name: str, values: list[float], unit: str, goal: float | None) -> None:
        """A figure: the median, against the most that it may be."""
        middle = statistics.median(values)
        said = {"name": f"{self.count:,} agents: {name}", "value": round(middle, 3), "unit": unit}
        said |= {"spread": [round(min(values), 3), round(max(values), 3)], "quick": self.quick}
        goal = None if self.quick else goal
        holds = max(values) <= goal if goal is not None else None
        print(json.dumps({**said, "goal": f"<= {goal:g} {unit}" if goal else None, "holds": holds}), flush=True)

    # ---- what is measured ------------------------------------------------------------------------------------------

    async def first(self) -> None:
        """All come at once."""
        began = time.monotonic()
        self.coordinate()
        await self.crowd.come()
        await self.crowd.seated(self.count, LIMIT_SECONDS)
        self.say("all come and form the first generation", [time.monotonic() - began], "s", None)

    async def steady(self) -> None:
        """Nothing happens."""
        await self.crowd.steps(3, LIMIT_SECONDS)
        process, seconds = self.lab.coordinators[-1], QUICK_STEADY_SECONDS if self.quick else STEADY_SECONDS
        shares = []
        for _ in range(3):
            before, began = cpu_seconds(process.pid), time.monotonic()
            await asyncio.sleep(seconds / 3)
            shares.append(100 * (cpu_seconds(process.pid) - before) / (time.monotonic() - began))
        self.say("CPU of the coordinator, nothing happens", shares, "% of a core", CPU_GOALS.get(self.count))
        self.say("memory of the coordinator", [memory(process.pid)], "MiB", None)

    async def failure(self) -> None:
        """A node is gone; it comes back before the next try."""
        formed, heard = [], []
        for _ in range(QUICK_TRIES if self.quick else TRIES):
            await self.crowd.steps(2, LIMIT_SECONDS)
            victim = self.dice.choice(self.crowd.present()[1:])
            spent = cpu_seconds(self.lab.coordinators[-1].pid)
            now, wall = time.monotonic(), time.time()
            self.crowd.kill([victim])
            await self.crowd.seated(self.count - 1, LIMIT_SECONDS)
            seated = time.time()
            over = self.lab.wait_event("GenerationOver", wall)["time"]
            formed.append(seated - over)
            heard.append(over - wall)
            print(f"cpu {cpu_seconds(self.lab.coordinators[-1].pid) - spent:.2f} s", file=sys.stderr, flush=True)
            await self.crowd.come_back()
            await self.crowd.seated(self.count, LIMIT_SECONDS)
            print(f"whole again after {time.monotonic() - now:.1f} s", file=sys.stderr, flush=True)
        self.say("a node gone: detected", heard, "s", None)
        self.say("a node gone: next generation formed", formed, "s", FORMED_GOALS.get(self.count))

    async def rolling(self) -> None:
        """Eight nodes go, one a second."""
        await self.crowd.steps(2, LIMIT_SECONDS)
        victims = self.dice.sample(self.crowd.present()[1:], 8)
        for victim in victims[:-1]:
            self.crowd.kill([victim])
            await asyncio.sleep(1.0)
        began = time.monotonic()
        self.crowd.kill(victims[-1:])
        await self.crowd.seated(self.count - len(victims), LIMIT_SECONDS)
        self.say("eight go, one a second: formed after the last", [time.monotonic() - began], "s", None)
        await self.crowd.come_back()
        await self.crowd.seated(self.count, LIMIT_SECONDS)

    async def partition(self) -> None:
        """A third falls silent: its streams stay open."""
        await self.crowd.steps(6, LIMIT_SECONDS)
        third = self.crowd.present()[1::3]
        began, wall = time.monotonic(), time.time()
        self.crowd.silence(third)
        await self.crowd.seated(self.count - len(third), LIMIT_SECONDS)
        spent = time.monotonic() - began
        over = self.lab.wait_event("GenerationOver", wall)["time"] - wall
        self.say("a third falls silent: detected", [over], "s", None)
        self.say("a third falls silent: formed after that", [spent - over], "s", None)
        await self.crowd.come_back()
        await self.crowd.seated(self.count, LIMIT_SECONDS)

    async def rejoin(self) -> None:
        """All streams end at one moment."""
        await self.crowd.steps(3, LIMIT_SECONDS)
        generation, began = self.crowd.generation(), time.monotonic()
        await self.crowd.reconnect()
        self.say("all streams cut at once: all heard again", [time.monotonic() - began], "s", None)
        await self.crowd.steps(5, LIMIT_SECONDS)
        kept = float(self.crowd.generation() == generation)
        self.say("all streams cut at once: the generation went on", [kept], "of 1", None)

    async def takeover(self) -> None:
        """The coordinator is killed, and another begins."""
        await self.crowd.steps(3, LIMIT_SECONDS)
        generation, began = self.crowd.generation(), time.monotonic()
        self.lab.coordinators[-1].kill()
        self.coordinate()
        await self.crowd.reconnect()
        self.say("another coordinator: all heard again", [time.monotonic() - began], "s", None)
        await self.crowd.steps(5, LIMIT_SECONDS)
        kept = float(self.crowd.generation() == generation)
        self.say("another coordinator: the generation went on", [kept], "of 1", None)


STORIES: dict[str, Callable[[Story], Awaitable[None]]] = {
    "steady": Story.steady,
    "failure": Story.failure,
    "rolling": Story.rolling,
    "partition": Story.partition,
    "rejoin": Story.rejoin,
    "takeover": Story.takeover,
}
CORES = os.sched_getaffinity(0)


def cpu_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """What a process has in memory, MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def play(count: int, names: list[str], quick: bool, work: Path | None) -> None:
    """All of it, with so many agents."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        story = Story(Path(folder), count, quick)
        try:
            await story.first()
            for name in names:
                await STORIES[name](story)
        finally:
            story.crowd.close()
            story.lab.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--agents", type=int, nargs="+")
    parser.add_argument("--only", nargs="+", choices=STORIES, default=list(STORIES), metavar="NAME")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {max(CORES)})
    for count in options.agents or (QUICK_SIZES if options.quick else SIZES):
        asyncio.run(play(count, options.only, options.quick, options.work))


if __name__ == "__main__":
    main()
