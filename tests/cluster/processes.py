"""Commands and daemons of the cluster. Owns the folder of pid files and logs; everything is ended by its pid."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

COMMAND_SECONDS = 60.0


class CommandFailed(Exception):
    """A command ended with an error, or a program did not come up; the message has its last words."""


def run(argv: Sequence[object], limit: float = COMMAND_SECONDS, stdin: str | None = None, check: bool = True) -> str:
    """Standard output of a command. Raises CommandFailed."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, text=True, capture_output=True, timeout=limit, input=stdin)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(words)}: no end within {limit:.0f} s") from error
    if check and done.returncode:
        raise CommandFailed(f"{' '.join(words)}: {(done.stderr or done.stdout)[-3000:]}")
    return done.stdout


def succeeds(argv: Sequence[object]) -> bool:
    """Whether a command ends well."""
    return subprocess.run([str(word) for word in argv], capture_output=True, timeout=COMMAND_SECONDS).returncode == 0


def wait_until(what: str, holds: Callable[[], bool], limit: float) -> None:
    """Raises CommandFailed when it does not hold within `limit` seconds."""
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            raise CommandFailed(f"{what}: not within {limit:.0f} s")
        time.sleep(0.1)


@dataclass(frozen=True)
class Daemons:
    """The programs of one cluster: sessions of their own, logs in `folder/log`, pids in `folder/pid`."""

    folder: Path

    def start(self, name: str, argv: Sequence[object], namespace: str) -> None:
        """Start a program in a network namespace, unless it runs."""
        if self.running(name):
            return
        for part in ("log", "pid"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        # Not `ip netns exec`: that hides the cgroup mounts, which kubelet needs.
        words = ["nsenter", f"--net=/run/netns/{namespace}", *(str(word) for word in argv)]
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=_environment()
            )
        (self.folder / "pid" / name).write_text(f"{process.pid} {_started(process.pid)}", encoding="utf-8")

    def running(self, name: str) -> bool:
        """Whether the program that was started under this name lives."""
        return self._pid(name) is not None

    def stop(self, name: str, sign: signal.Signals = signal.SIGTERM, grace: float = 10.0) -> None:
        """End a program; by force after `grace` seconds."""
        pid = self._pid(name)
        if pid is not None:
            _signal(pid, sign)
            deadline = time.monotonic() + grace
            while self._pid(name) is not None and time.monotonic() < deadline:
                time.sleep(0.02)
            if self._pid(name) is not None:
                _signal(pid, signal.SIGKILL)
        (self.folder / "pid" / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Programs that were started and not stopped."""
        return sorted(path.name for path in (self.folder / "pid").glob("*"))

    def last_words(self, name: str) -> str:
        """The end of a program's log."""
        log = self.folder / "log" / f"{name}.log"
        return log.read_text(encoding="utf-8", errors="replace")[-3000:] if log.exists() else "no log"

    def _pid(self, name: str) -> int | None:
        """Its pid while it lives; a pid that somebody else has by now is not it."""
        try:
            words = (self.folder / "pid" / name).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return None
        return int(words[0]) if len(words) == 2 and _started(int(words[0])) == words[1] else None


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _signal(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def _started(pid: int) -> str:
    """When a process began, in clock ticks since the machine's start; empty when it lives no more."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
