"""Marked processes: everything that lives of a node, found by a mark in its environment or by its session.

What must stay true: no process is ever signalled that does not carry the mark of this very start, or stand in a
session that one of its nodes has named while it lived. Process ids are reused; the mark is not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

MARK = "TESSERA_NODE_MARK"
"""Environment variable START/NODE of an agent, inherited by all that it starts."""


def living(mark: str, sessions: Set[int] = frozenset()) -> list[int]:
    """Process ids that carry `mark` (a whole mark, or START/ for all of its nodes) or stand in one of the sessions."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # Processes come and go, and those of others can't be read: neither is one of ours.
        with suppress(OSError, ValueError, IndexError):
            state, session = _state_and_session((entry / "stat").read_text())
            if state in "ZX":
                continue
            if session in sessions or _carries((entry / "environ").read_bytes(), wanted):
                found.append(int(entry.name))
    return found


def _state_and_session(stat: str) -> tuple[str, int]:
    """From the text of /proc/PID/stat; the name in parentheses may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[3])


def _carries(environ: bytes, wanted: bytes) -> bool:
    whole = not wanted.endswith(b"/")
    return any(entry == wanted if whole else entry.startswith(wanted) for entry in environ.split(b"\0"))


def kill(pids: list[int]) -> None:
    """SIGKILL; that one has ended meanwhile is success."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
