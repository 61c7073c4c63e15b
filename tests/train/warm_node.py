"""Builders for tests of the warm process: a node with one, trainers under it, and conditions to wait for."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tessera_trainer.warm_client import processes
from tessera_trainer.warm_link import WarmProcess

READY_LIMIT_S = 90.0
"""Torch's import, on a machine that is busy with other tests."""
END_LIMIT_S = 60.0


def until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether the condition came true within the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.002)
    return condition()


def lives(pid: int) -> bool:
    """Whether a process is there, as more than a zombie."""
    return any(process == pid for process, _, _ in processes())


class Trainer:
    """A client as torchrun would have started it: in a session of its own, its output in a pipe."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.client = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )

    def line(self) -> str:
        """The next line of its output; '' at the end."""
        assert self.client.stdout is not None
        assert select.select([self.client.stdout], [], [], END_LIMIT_S)[0], "the trainer said nothing"
        return self.client.stdout.readline().rstrip("\n")

    def ended(self, told: str = "") -> tuple[int, str, str]:
        """Exit code, standard output and error once it has ended; its standard input is `told`, and ends."""
        output, errors = self.client.communicate(told, timeout=END_LIMIT_S)
        return self.client.returncode, output, errors


class WarmNode:
    """A node with a warm process, whose trainers run small programs."""

    def __init__(self, folder: Path, imports: Sequence[str] = ()) -> None:
        self.folder = folder
        self.log = folder / "logs" / "warm.log"
        self.log.parent.mkdir(exist_ok=True)
        self._output = self.log.open("ab")
        self.warm = WarmProcess(folder / "sockets", imports, self._output)
        self.trainers: list[Trainer] = []

    def start(self) -> WarmNode:
        self.warm.start()
        assert until(lambda: self._said() != "", READY_LIMIT_S), "the warm process did not come up"
        return self

    def _said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def program(self, text: str, name: str = "program.py") -> str:
        """A program's path. Pipes are read by line, so programs say what matters with flush."""
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    def run(self, *arguments: str, slot: int = 0, environment: dict[str, str] | None = None) -> Trainer:
        """A client for these trainer arguments."""
        named = {
            "TESSERA_WARM_SOCKET": str(self.warm.socket_path),
            "TESSERA_PYTHON": sys.executable,
            "LOCAL_RANK": str(slot),
        }
        whole = {**os.environ, **named, **(environment or {})}
        self.trainers.append(Trainer([*self.warm.client_command, *arguments], whole, self.folder))
        return self.trainers[-1]

    def run_cold(self, *arguments: str, environment: dict[str, str] | None = None) -> Trainer:
        """The same program without any of this."""
        whole = {**os.environ, "LOCAL_RANK": "0", **(environment or {})}
        self.trainers.append(Trainer([sys.executable, *arguments], whole, self.folder))
        return self.trainers[-1]

    def close(self) -> None:
        self.warm.stop()
        self._output.close()
        for trainer in self.trainers:
            trainer.client.kill()
            trainer.client.communicate()
