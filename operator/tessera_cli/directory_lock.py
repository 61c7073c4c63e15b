"""The lock of a directory: held by the one command that drives what is in it, let go by the kernel when it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera_api.exit_codes import ExitCode
from tessera_cli.refusal import Refused


@contextmanager
def hold(lock: Path, what: str) -> Iterator[None]:
    """Hold `lock` meanwhile. Raises Refused, naming the process, when another one holds it."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Refused(f"{lock.parent} cannot be written: {error.strerror}; choose another --workdir") from error
    try:
        if not _try(descriptor):
            raise Refused(
                f"{what} is in use by process {_written(descriptor) or '(unknown)'}: wait for it, or stop it"
                f" (tessera stop {lock.parent}, or Ctrl-C where it runs)",
                ExitCode.IN_USE,
            )
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(lock: Path) -> int | None:
    """The process that holds it, 0 when that is not known; None when nobody does."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if _try(descriptor) else _written(descriptor)
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written(descriptor: int) -> int:
    text = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
    return int(text) if text.isdigit() else 0
