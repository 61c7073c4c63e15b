"""The history of a run as its directory tells it: for the report and the summary.

Pure but for `read_history`. What must stay true: a step that stands in `metrics.jsonl` more than once counts as the
highest generation computed it; the others are lost work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from tessera_api.incident import Incident
from tessera_api.journal import Event, EventName, StepLine
from tessera_api.resolved_run import ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_api.training_run_status import TrainingRunStatus
from tessera_cli.live_lines import parse_lines


@dataclass(frozen=True)
class Generation:
    """A generation from its opening to its end (or the last that is known of the run)."""

    number: int
    opened: float
    over: float
    nodes: str
    """Its members, in order."""
    world_size: int | None
    """None when it completed no step."""
    planned: bool
    """Whether it ended without an incident."""


@dataclass(frozen=True)
class CommittedStep:
    """A checkpoint that stood in the log."""

    step: int
    time: float
    seconds: float | None
    stall_seconds: float | None


@dataclass(frozen=True)
class RunHistory:
    """See the module."""

    resolved: ResolvedRun
    status: TrainingRunStatus
    steps: tuple[StepLine, ...]
    """Each step once, in order."""
    lost: tuple[StepLine, ...]
    """Steps that were computed again later."""
    incidents: tuple[Incident, ...]
    generations: tuple[Generation, ...]
    commits: tuple[CommittedStep, ...]
    events: tuple[Event, ...]

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the steps."""
        rates = [line.tokens_per_second for line in self.steps if line.tokens_per_second and _finite(line)]
        return median(rates) if rates else None

    @property
    def restarts(self) -> int:
        """Generations after the first."""
        return max(0, len(self.generations) - 1)

    @property
    def steps_lost(self) -> int:
        """Steps computed again because of incidents."""
        return sum(incident.steps_lost or 0 for incident in self.incidents)


def _finite(line: StepLine) -> bool:
    return math.isfinite(line.tokens_per_second or 0.0)


def read_history(directory: RunDirectory, resolved: ResolvedRun) -> RunHistory:
    """Read everything once; what is not there yet is empty."""
    events = tuple(parse_lines(_bytes(directory.events), Event))
    steps, lost = told_twice(parse_lines(_bytes(directory.metrics), StepLine))
    incidents = read_incidents(directory.incidents)
    return RunHistory(
        resolved=resolved,
        status=read_status(directory),
        steps=steps,
        lost=lost,
        incidents=incidents,
        generations=generations(events, steps + lost, incidents),
        commits=commits(events),
        events=events,
    )


def read_status(directory: RunDirectory) -> TrainingRunStatus:
    """`status.json`; empty before the coordinator's first word."""
    try:
        return TrainingRunStatus.model_validate_json(directory.status.read_bytes())
    except (FileNotFoundError, ValidationError):
        return TrainingRunStatus()


def read_incidents(folder: Path) -> tuple[Incident, ...]:
    """In order of their numbers; what is no incident is passed over."""
    found = []
    for path in sorted(folder.glob("[0-9]*.json")):
        found += list(parse_lines(path.read_bytes().replace(b"\n", b" "), Incident))
    return tuple(found)


def told_twice(lines: Iterable[StepLine]) -> tuple[tuple[StepLine, ...], tuple[StepLine, ...]]:
    """The line that counts of each step, and the ones that do not."""
    best: dict[int, StepLine] = {}
    lost = []
    for line in lines:
        other = best.get(line.step)
        if other is not None and other.generation > line.generation:
            lost.append(line)
            continue
        if other is not None and other.generation < line.generation:
            lost.append(other)
        best[line.step] = line
    return tuple(best[step] for step in sorted(best)), tuple(lost)


def generations(
    events: Sequence[Event], lines: Sequence[StepLine], incidents: Sequence[Incident]
) -> tuple[Generation, ...]:
    """From the events; a generation that nobody saw end ends with the next one, or with the last that is known."""
    sizes = {line.generation: line.world_size for line in lines}
    unplanned = {incident.generation_before for incident in incidents}
    last = max([event.time for event in events] + [line.time for line in lines], default=0.0)
    opened: dict[int, Event] = {}
    over: dict[int, float] = {}
    for event in events:
        if event.name is EventName.GENERATION_OPENED:
            opened.setdefault(event.generation, event)
        elif event.name in (EventName.GENERATION_OVER, EventName.ENDED):
            over.setdefault(event.generation, event.time)
    numbers = sorted(opened)
    following = {number: opened[after].time for number, after in pairwise(numbers)}
    return tuple(
        Generation(
            number,
            opened[number].time,
            min(over.get(number, last), following.get(number, last)),
            opened[number].message,
            sizes.get(number),
            number not in unplanned,
        )
        for number in numbers
    )


def commits(events: Sequence[Event]) -> tuple[CommittedStep, ...]:
    """From the events, in order of time."""
    return tuple(
        CommittedStep(
            int(event.numbers["step"]), event.time, event.numbers.get("seconds"), event.numbers.get("stall_seconds")
        )
        for event in events
        if event.name is EventName.COMMITTED and "step" in event.numbers
    )


def _bytes(path: Path) -> bytes:
    """The whole lines of a file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]
