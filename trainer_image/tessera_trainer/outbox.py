"""Reports that must arrive: numbered, kept until the coordinator says that they are safe, repeated on every new
stream. Pure."""

from __future__ import annotations

from collections.abc import Callable

from tessera_api.messages import Leave, Note, Part, Report, StepRecord, Steps
from tessera_api.record import Record

MAX_KEPT = 20_000
MAX_RECORDS = 200
"""Steps in one report: with all their numbers they fit into a frame."""


def as_sent(message: Record, now: float) -> Record:
    """The message as it is sent at `now` (Unix seconds), again or for the first time."""
    return message.model_copy(update={"sent": now}) if isinstance(message, Steps) else message


class Outbox:
    """What one agent has reported and cannot forget yet, in order."""

    def __init__(self) -> None:
        self._next = 1
        self._kept: dict[int, Report] = {}
        self._steps: list[StepRecord] = []
        self.dropped = 0

    def add(self, report: Report) -> tuple[int, Report]:
        """Keep a report; returns it with its number, to be sent."""
        if len(self._kept) >= MAX_KEPT:
            self._make_room()
        number, self._next = self._next, self._next + 1
        self._kept[number] = report
        return number, report

    def step(self, record: StepRecord) -> bool:
        """A completed step waits for `take_steps`, so that fast steps share a message; True if it waits alone."""
        self._steps.append(record)
        return len(self._steps) == 1

    def take_steps(self, generation: int) -> tuple[int, Report] | None:
        """The steps that wait, as one report."""
        if not self._steps:
            return None
        records, self._steps = tuple(self._steps[:MAX_RECORDS]), self._steps[MAX_RECORDS:]
        return self.add(Steps(generation=generation, records=records))

    def acknowledged(self, number: int) -> None:
        """That report is safe."""
        self._kept.pop(number, None)

    def committed(self, generation: int, step: int) -> None:
        """The generation's parts of this checkpoint, and of those before it, are of no more use."""

        def of_no_use(report: Report) -> bool:
            return isinstance(report, Part) and report.generation == generation and report.step <= step

        self._forget(of_no_use)

    def generation_began(self, generation: int) -> None:
        """What was said of older generations no longer matters, but for notes."""
        self._steps.clear()

        def old(report: Report) -> bool:
            return not isinstance(report, Note | Leave) and report.generation < generation

        self._forget(old)

    def unsafe(self) -> list[tuple[int, Report]]:
        """All that has to be said again on a new stream."""
        return list(self._kept.items())

    def _forget(self, old: Callable[[Report], bool]) -> None:
        self._kept = {number: report for number, report in self._kept.items() if not old(report)}

    def _make_room(self) -> None:
        """The coordinator has been away for very long: steps and notes go first, parts last."""
        told = (number for number, report in self._kept.items() if isinstance(report, Steps | Note))
        others = (number for number, report in self._kept.items() if not isinstance(report, Part))
        oldest = next(iter(self._kept))
        del self._kept[next(told, next(others, oldest))]
        self.dropped += 1
