"""The demo's two kills: what to hurt and when, by the run's own live files, and what came of it.

Owns the signals: only processes of the demo's own run are hit. A node is all that its sessions and its agent's
descendants hold; the coordinator is a child of `tessera local`. Times are Unix seconds, counted from the first signal.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tessera_api.journal import Event, EventName, StepLine
from tessera_api.run_directory import RunDirectory
from tessera_cli.live_lines import LiveLines
from tessera_cli.run_history import RunHistory

NODE_SHARE, COORDINATOR_SHARE = 0.43, 0.7
"""Of the run's steps, after which the node and the coordinator are killed."""


@dataclass(frozen=True)
class Kill:
    """One thing that was killed."""

    time: float
    step: int
    """The highest that was done then."""
    generation: int
    processes: int
    node: str = ""
    """Empty: it was the coordinator."""


@dataclass(frozen=True)
class Process:
    """A line of the process table."""

    pid: int
    parent: int
    session: int
    state: str


def processes() -> Iterator[Process]:
    """What lives on this machine now."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                yield Process(int(entry.name), int(words[1]), int(words[3]), words[0])


def carrying(variable: bytes) -> list[int]:
    """Living processes with NAME=VALUE in the environment that they were started with."""
    found = []
    for process in processes():
        with suppress(OSError):  # ended, or another user's
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if variable in environment and process.state not in "ZX":
                found.append(process.pid)
    return found


def kill_all(pids: list[int]) -> float:
    """SIGKILL to each; the time of the first."""
    began = time.time()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return began


@dataclass
class Attack:
    """Follows one run and kills twice. `look` is called again and again while it lives."""

    directory: RunDirectory
    total_steps: int
    local_pid: int
    """Of `tessera local`."""
    kills: list[Kill] = field(default_factory=list)
    step: int = 0
    generation: int = 0

    def __post_init__(self) -> None:
        self._lines = LiveLines(self.directory.metrics, StepLine)

    def look(self) -> Kill | None:
        """A kill when one was due, else None."""
        for line in self._lines.new():
            self.step, self.generation = max(self.step, line.step), max(self.generation, line.generation)
        kill = self._next()
        if kill is not None:
            self.kills.append(kill)
        return kill

    def _next(self) -> Kill | None:
        match self.kills:
            case [] if self.step >= NODE_SHARE * self.total_steps:
                return self._kill_rank_0()
            case [first] if self.step >= COORDINATOR_SHARE * self.total_steps and self.generation > first.generation:
                return self._kill_coordinator()
        return None

    def _kill_rank_0(self) -> Kill | None:
        """None as long as no spare stands ready."""
        nodes = json.loads(self.directory.nodes.read_text())
        first = next((name for name, node in nodes.items() if node["role"] == "active" and 0 in node["ranks"]), None)
        if first is None or not any(node["role"] == "spare" for node in nodes.values()):
            return None
        table = list(processes())
        agent, sessions = nodes[first]["agentPid"], set(nodes[first]["sessions"])
        level = {agent}
        mine = {agent} | {process.pid for process in table if process.session in sessions}
        while level:
            level = {process.pid for process in table if process.parent in level}
            mine |= level
        began = kill_all([agent, *(mine - {agent})])
        return Kill(began, self.step, self.generation, len(mine), first)

    def _kill_coordinator(self) -> Kill | None:
        """None while it is being started."""
        children = [process.pid for process in processes() if process.parent == self.local_pid]
        leading = [pid for pid in children if b"tessera_coordinator" in _command(pid)]
        return Kill(kill_all(leading), self.step, self.generation, len(leading)) if leading else None


def _command(pid: int) -> list[bytes]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


# ---- what came of it ------------------------------------------------------------------------------------------------


def told(kill: Kill, history: RunHistory) -> list[str]:
    """Lines for people. Pure."""
    return _node_told(kill, history) if kill.node else _coordinator_told(kill, history)


def _node_told(kill: Kill, history: RunHistory) -> list[str]:
    lines = [f"node {kill.node}, which held rank 0, was killed with its {kill.processes} processes at step {kill.step}"]
    found = [each for each in history.incidents if kill.node in each.nodes and each.detected >= kill.time]
    if not found or found[0].next_step is None:
        return [*lines, "its loss was not noticed, or no step followed"]
    incident, next_step = found[0], found[0].next_step
    opened = next((one for one in history.generations if one.number == incident.generation_after), None)
    usual = median(line.seconds for line in history.steps if line.seconds is not None)
    lines.append(f"detected            {incident.detected - kill.time:6.2f} s after the signal")
    if opened is not None:
        lines.append(
            f"generation {opened.number} open   {opened.opened - kill.time:6.2f} s after it, with {opened.nodes}"
        )
    lines.append(f"next step           {next_step - kill.time:6.2f} s after it; one step takes {usual:.2f} s of that")
    lines.append(
        f"steps lost          {incident.steps_lost or 0:3d}      done since the last checkpoint, and computed again"
    )
    return lines


def _coordinator_told(kill: Kill, history: RunHistory) -> list[str]:
    lines = [f"the coordinator was killed at step {kill.step}"]
    back = _first(history, EventName.COORDINATOR_STARTED, kill.time)
    if back is None:
        return [*lines, "it did not come back"]
    later = [line for line in (*history.steps, *history.lost) if line.time > kill.time]
    again = sum(1 for line in history.lost if line.generation == kill.generation and line.time > kill.time)
    adopted = _first(history, EventName.GENERATION_ADOPTED, kill.time)
    lines.append(f"a new one leads     {back.time - kill.time:6.2f} s after the signal (term {back.term})")
    if adopted is not None and adopted.generation == kill.generation:
        after = adopted.time - kill.time
        lines.append(f"generation {adopted.generation} goes on {after:6.2f} s after it; no trainer was restarted")
    meanwhile = sum(1 for line in later if line.time <= back.time)
    lines.append(f"steps meanwhile     {meanwhile:3d}      done while nobody led")
    lines.append(f"steps lost          {again:3d}")
    return lines


def _first(history: RunHistory, name: EventName, after: float) -> Event | None:
    return next((event for event in history.events if event.name is name and event.time > after), None)
