"""What the trainers of this node are doing at this moment: evidence before they are stopped.

A trainer answers a signal with the stacks of all its threads (`tessera_run.run.connect` has `faulthandler` do it,
which needs no Python code to run), at the end of its rank's log. What must stay true: nobody is waited for longer than
`ANSWER_SECONDS`; a process that the kernel has stopped says so by its state alone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tessera_api.inspection import RankSeen
from tessera_run.run import STACK_SIGNAL

ANSWER_SECONDS = 1.0
LOOK_SECONDS = 0.02
MAX_BYTES = 1 << 20
MAX_LOG = 2000
_STATES = {"R": "running", "S": "sleeping", "D": "stuck", "T": "stopped", "t": "stopped", "Z": "gone", "X": "gone"}
SILENT = ("stopped", "gone")
"""Who answers nothing."""
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+.*:$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)$', re.MULTILINE)
_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python")
_WAITS = "/torch/distributed/"
_READS = ("/tessera_data/", "/tessera_store/")


@dataclass(frozen=True)
class Trainer:
    """One of this node's."""

    pid: int
    log: Path
    """Where its standard error goes."""


def inspect(trainers: Mapping[int, Trainer]) -> tuple[RankSeen, ...]:
    """By rank."""
    states = {rank: _state(trainer.pid) for rank, trainer in trainers.items()}
    asked = {rank: _size(trainers[rank].log) for rank, state in states.items() if state not in SILENT}
    for rank in asked:
        with suppress(ProcessLookupError):
            os.kill(trainers[rank].pid, STACK_SIGNAL)
    deadline, said, before = time.monotonic() + ANSWER_SECONDS, dict[int, str](), dict[int, str]()
    while len(said) < len(asked) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        for rank, start in asked.items():
            text = _read(trainers[rank].log, start)
            stack = main_thread(text) if text == before.get(rank) else None  # else it is still being written
            before[rank] = text
            if stack is not None:
                said[rank] = stack
    printed = {rank: _printed(trainer.log, asked.get(rank)) for rank, trainer in trainers.items()}
    return tuple(_seen(rank, state, said.get(rank, ""), printed[rank]) for rank, state in sorted(states.items()))


def _printed(log: Path, until: int | None) -> str:
    """The end of what a rank had printed before it was asked."""
    end = _size(log) if until is None else until
    return _read(log, max(0, end - MAX_LOG))[: min(end, MAX_LOG)]


def _seen(rank: int, state: str, stack: str, log: str) -> RankSeen:
    return RankSeen(
        rank=rank,
        state=state,
        collective=_WAITS in stack,
        reading=any(room in stack for room in _READS),
        at=innermost(stack),
        stack=stack.strip("\n")[:4000],
        log=log,
    )


def main_thread(text: str) -> str | None:
    """The stack of the main thread, which `faulthandler` tells last, innermost frame first; None where the text holds
    none that is whole."""
    threads = list(_THREAD.finditer(text))
    if not threads or not text.endswith("\n"):
        return None
    stack = text[threads[-1].end() :]
    return stack if _FRAME.search(stack) else None


def innermost(stack: str) -> str:
    """The innermost frame outside Python's own library and packages; else the innermost of all."""
    frames = list(_FRAME.finditer(stack))
    if not frames:
        return ""
    frame = next((frame for frame in frames if not _of_a_library(frame["file"])), frames[0])
    return f"{Path(frame['file']).name}:{frame['line']} {frame['function']}"[:300]


def _of_a_library(file: str) -> bool:
    return "/tessera_" not in file and any(folder in file for folder in _LIBRARIES)


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    return _STATES.get(text.rpartition(")")[2].split()[0], "running")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
