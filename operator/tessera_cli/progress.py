"""Progress: one live line at a terminal, else a plain line per interval; and a line per important event.

Reads what the coordinator writes into the run directory; asks nobody. `told` and `step_line` are pure.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from tessera_api.journal import Event, EventName, StepLine
from tessera_api.run_directory import RunDirectory
from tessera_cli import shown_numbers
from tessera_cli.live_lines import LiveLines

PLAIN_SECONDS = 10.0
_WINDOW = 50
"""Steps over which the time left is reckoned."""


_WORDS: dict[EventName, str | None] = {
    EventName.COORDINATOR_STARTED: None,
    EventName.NODE_SEEN: None,
    EventName.NODE_LOST: "{node}lost: {message}",
    EventName.NODE_LEFT: "{node}left: {message}",
    EventName.NODE_RETURNED: None,
    EventName.GENERATION_OPENED: "generation {generation} is open: {message}",
    EventName.GENERATION_OVER: "generation {generation} is over: {message}",
    EventName.GENERATION_ADOPTED: "the coordinator is back; generation {generation} goes on",
    EventName.FIRST_STEP: "generation {generation}: first step done ({message})",
    EventName.COLLECTIVE_ERROR: None,
    EventName.WORKER_FAILED: "{node}{message}",
    EventName.COMMITTED: "checkpoint committed: {message}",
    EventName.RETIRED: None,
    EventName.REWOUND: "rewound {message}",
    EventName.SKIPPED: "skipped {message}",
    EventName.PHASE: None,
    EventName.HANG: None,
    EventName.DIAGNOSED: "{node}{message}",
    EventName.DRILL: "drill: {node}{message}",
    EventName.STRAGGLER: "straggler: {node}{message}",
    EventName.STOP_ORDERED: "stop ordered: {message}",
    EventName.SELF_DOUBT: "{message}",
    EventName.STORAGE_TROUBLE: "{node}storage trouble: {message}",
    EventName.STORAGE_BACK: "{node}storage is back: {message}",
    EventName.NOTE: "{node}{message}",
    EventName.ENDED: "the run has ended: {message}",
}
"""How each event is told to people; None: only a report needs it."""


def told(event: Event) -> str | None:
    """An event for people; None for those that only a report needs."""
    words = _WORDS[event.name]
    node = f"{event.node}: " if event.node else ""
    return words and words.format(node=node, message=event.message, generation=event.generation)


def step_line(line: StepLine, total: int, eta: float | None, nodes: str | None = None) -> str:
    """Where the run stands after a step."""
    parts = [f"step {line.step}/{total}", f"loss {shown_numbers.loss(line.loss)}"]
    if line.tokens_per_second is not None:
        parts.append(f"{shown_numbers.amount(line.tokens_per_second)} tokens/s")
    if eta is not None:
        parts.append(f"ETA {shown_numbers.span(eta)}")
    if nodes:
        parts.append(f"nodes {nodes}")
    parts.append(f"generation {line.generation} (world size {line.world_size})")
    return "  ".join(parts)


class Pace:
    """The time left, by the steps of the present generation."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._steps: deque[StepLine] = deque(maxlen=_WINDOW)

    def add(self, line: StepLine) -> None:
        """A completed step. A pause between two generations is no step's time."""
        if self._steps and self._steps[-1].generation != line.generation:
            self._steps.clear()
        self._steps.append(line)

    def left(self) -> float | None:
        """Seconds; None before two steps."""
        first, last = (self._steps[0], self._steps[-1]) if self._steps else (None, None)
        if first is None or last is None or last.step <= first.step:
            return None
        return (self._total - last.step) * (last.time - first.time) / (last.step - first.step)


class Progress:
    """Shows one start of a run. `say` may be called between looks; `nodes` answers how many train, such as 3/4."""

    def __init__(self, directory: RunDirectory, total: int, out: TextIO, nodes: Callable[[], str | None]) -> None:
        self._steps = LiveLines(directory.metrics, StepLine, from_end=True)
        self._events = LiveLines(directory.events, Event, from_end=True)
        self._total, self._out, self._nodes = total, out, nodes
        self._live = out.isatty()
        self._pace = Pace(total)
        self._last: StepLine | None = None
        self._shown: StepLine | None = None
        self._plain_at = 0.0
        self._open_line = False

    @property
    def seconds(self) -> float:
        """How long to wait between two looks."""
        return 0.2 if self._live else 1.0

    def say(self, text: str) -> None:
        """A line of its own, with the time of day."""
        cleared = "\r\x1b[2K" if self._open_line else ""
        if self._open_line:
            self._open_line, self._shown = False, None
        self._write(f"{cleared}{time.strftime('%H:%M:%S')} {text}\n")

    def look(self, last: bool = False) -> None:
        """Read what is new and show it; `last`: the final state is shown whatever the interval."""
        for line in self._steps.new():
            self._pace.add(line)
            self._last = line
        for event in self._events.new():
            if text := told(event):
                self.say(text)
        if (
            self._last is not None
            and self._last is not self._shown
            and (last or self._live or self._interval_is_over())
        ):
            self._show(self._last)
        if last:
            self._finish_line()

    def _interval_is_over(self) -> bool:
        return time.monotonic() - self._plain_at >= PLAIN_SECONDS

    def _show(self, line: StepLine) -> None:
        text = step_line(line, self._total, self._pace.left(), self._nodes())
        self._shown, self._plain_at = line, time.monotonic()
        if not self._live:
            return self.say(text)
        width = shutil.get_terminal_size().columns
        self._write(f"\r\x1b[2K{text[: width - 1]}")
        self._open_line = True

    def _finish_line(self) -> None:
        if self._open_line:
            self._write("\n")
            self._open_line = False

    def _write(self, text: str) -> None:
        """Nobody reads it any more, or the disk is full: the run is worth more than its words."""
        with suppress(OSError):
            print(text, end="", file=self._out, flush=True)
