"""Child: one process that this command started and must outlive.

What must stay true: a child has a session of its own (so that a terminal's Ctrl-C reaches this command alone), is
killed by the kernel when this command's main thread dies, however it dies, and is reaped the moment it ends. Children
may be started from the main thread only: the kernel's promise belongs to the thread that forked (prctl(2),
PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PARENT_IS_GONE = 113


def start_process(
    command: Sequence[str], environment: Mapping[str, str], log: Path, output: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one; its output is appended to `log`, but for `output`, if given.

    OSError when it cannot be started.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children are started from the main thread: they are to die with it")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file if output is None else output,
            stderr=file,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=_tie(),  # noqa: PLW1509 - this process has one thread, and the child only calls prctl
        )


def _tie() -> Callable[[], None]:
    """What a child does between fork and exec. Everything it needs is made ready here, before the fork."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel had been asked
            os._exit(_PARENT_IS_GONE)

    return tie


class Child:
    """A started process, watched on the event loop through its pidfd. `ended(code)` is called once it is reaped."""

    def __init__(self, process: subprocess.Popen[bytes], ended: Callable[[int], None]) -> None:
        self._process, self._ended = process, ended
        self.started = time.monotonic()
        self.gone = asyncio.Event()
        self._descriptor = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._reap)

    @property
    def pid(self) -> int:
        """Also its session's id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code, or minus the signal; None while it runs."""
        return self._process.returncode

    def _reap(self) -> None:
        code = self._process.poll()
        if code is None:  # a wake-up without an end
            return
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.gone.set()
        self._ended(code)

    def send(self, number: signal.Signals) -> None:
        """Signal it; that it has ended is no error."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
