"""Makes storage and clock unsteady: with this folder on PYTHONPATH, every call of a file store waits while the file
named by UNSTEADY_STALL exists, and `time.time` is off by the seconds that the file named by UNSTEADY_CLOCK holds. For
benchmarks; the monotonic clock is left alone, as the kernel leaves it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.02


def _after_the_stall(call: Callable[..., Any], stall: Path) -> Callable[..., Any]:
    def waits(*arguments: Any, **named: Any) -> Any:
        while stall.exists():
            time.sleep(LOOK_SECONDS)
        return call(*arguments, **named)

    return waits


def _unsteady_store(stall: Path) -> None:
    from tessera_store.files import FileStore

    for name in ("create", "put", "get", "get_range", "download", "list", "delete", "size", "info"):
        setattr(FileStore, name, _after_the_stall(getattr(FileStore, name), stall))


def _unsteady_clock(offset: Path) -> None:
    steady, known = time.time, [0.0, 0.0]

    def unsteady() -> float:
        if time.monotonic() >= known[0]:
            known[:] = [time.monotonic() + LOOK_SECONDS, float(offset.read_text() or 0)]
        return steady() + known[1]

    time.time = unsteady


if "UNSTEADY_STALL" in os.environ:
    _unsteady_store(Path(os.environ["UNSTEADY_STALL"]))
if "UNSTEADY_CLOCK" in os.environ:
    _unsteady_clock(Path(os.environ["UNSTEADY_CLOCK"]))
