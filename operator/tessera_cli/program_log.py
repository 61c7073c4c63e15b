"""A program's log, as far as people need it on the terminal: its last line, and where the rest is."""

from __future__ import annotations

import os
from pathlib import Path

_TAIL_BYTES = 8192
_LONGEST = 400


def last_words(log: Path) -> str:
    """': LINE (see FILE)', or only where to look when nothing was printed."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:_LONGEST]} (see {log})" if last else f" (see {log})"
