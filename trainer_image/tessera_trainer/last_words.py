"""Last words: why a trainer ended that told nobody, from the end of its log."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from tessera_trainer.warm_client import ENDED

TAIL_BYTES = 1 << 16
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+)')
_ERROR = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class LastWords:
    """Where it ended and how. `place` is empty where it was ended from outside: that is no fault of the program."""

    place: str
    message: str


def last_words(log: Path) -> LastWords | None:
    """What the log's end says: its last traceback, or how the process ended. None where it says neither."""
    lines = _tail(log)
    ended = next((line.removeprefix(ENDED) for line in reversed(lines) if line.startswith(ENDED)), "")
    kind, _, number = ended.rpartition(" ")
    raised = _raised(lines) if kind != "signal" else None  # what a killed trainer had logged before is not its end
    if raised is not None:
        return raised
    if kind == "signal":
        name = signal.Signals(int(number)).name if int(number) in set(signal.Signals) else f"signal {number}"
        outside = int(number) in _FROM_OUTSIDE
        return LastWords("" if outside else name, f"ended by {name}, without a word")
    return LastWords(ended, f"ended by {ended}, without a word") if ended else None


def end_of(log: Path, characters: int) -> str:
    """The last lines of a log, at most so many characters."""
    return "\n".join(_tail(log))[-characters:]


def _raised(lines: list[str]) -> LastWords | None:
    """The last traceback: as `tessera_run.failure.place_of` names its place."""
    frames = [(number, found) for number, line in enumerate(lines) if (found := _FRAME.match(line))]
    if not frames:
        return None
    number, frame = frames[-1]
    for line in lines[number + 1 :]:
        error = _ERROR.match(line)
        if error is not None:
            kind = error[1].rpartition(".")[2]
            return LastWords(f"{frame[1]}:{frame[2]} {kind}", line)
    return None


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
