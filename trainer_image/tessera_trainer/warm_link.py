"""The agent's hold on its node's warm process: start it, ask it, end it.

Used inside torchrun's agent, which has threads and may not fork by itself; every call is bounded. What must stay true:
no trainer outlives `kill`, `clear` or `stop` unless the kernel holds it, and then it is named.
"""

from __future__ import annotations

import _socket
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from tessera_trainer.proof import ProofRequest, ProofResult, failed_proof, parse_result, prove
from tessera_trainer.warm_client import (
    CLEAR,
    EXIT,
    PROOF,
    READY,
    STUCK,
    connect,
    kill_sessions,
    processes,
    send_request,
)
from tessera_trainer.warm_settings import IMPOSED

SOCKET_NAME = "warm.sock"
CLIENT = Path(__file__).with_name("warm_client.py")
ANSWER_SLACK_S = 1.0
"""How much later than its own limit the warm process' answer may come."""
DEATH_LIMIT_S = 5.0
"""How long killed processes are waited for."""
POLL_S = 0.01
LINE_LIMIT = 1 << 20


class WarmSilent(Exception):
    """The warm process is not there, or did not answer in time."""


class WarmProcess:
    """One warm process. `directory` becomes private (0700) and holds its socket; `output` takes what it says, which
    otherwise goes where this process' own words go."""

    def __init__(self, directory: Path, imports: Sequence[str], output: IO[bytes] | None = None) -> None:
        self._directory, self._imports, self._output = directory, tuple(imports), output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        """TESSERA_WARM_SOCKET of the clients."""
        return self._directory / SOCKET_NAME

    @property
    def pid(self) -> int:
        """Of the warm process started last; 0 before the first."""
        return self._process.pid if self._process else 0

    @property
    def client_command(self) -> tuple[str, ...]:
        """What torchrun starts in a trainer's place (`--no-python`), before the trainer's own arguments."""
        return (sys.executable, "-I", "-S", str(CLIENT))

    def start(self) -> None:
        """Starts it with this process' environment, and does not wait.

        Call it from a thread that lives as long as this process (the main thread): the kernel ends the warm process
        when the *thread* that made it ends.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        self._end_predecessor()
        self.socket_path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tessera_trainer.warm", "--socket", str(self.socket_path)]
        command += ["--parent", str(os.getpid()), "--import", ",".join(self._imports)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**IMPOSED, **os.environ},
            start_new_session=True,
        )

    def ready(self, timeout: float) -> bool:
        """Whether it forks trainers now. Waits for its imports, at most `timeout` seconds; False also when unfit."""
        deadline = time.monotonic() + timeout
        while self.alive() and time.monotonic() < deadline:
            try:
                answer = next(self._ask({"do": "ready"}, deadline - time.monotonic()), "")
            except WarmSilent:
                time.sleep(POLL_S)  # not listening yet
                continue
            return answer.startswith(READY)
        return False

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def restart_if_dead(self) -> bool:
        """Starts it anew if it has died (see `start` on threads); says whether it did."""
        if self.alive():
            return False
        self.start()
        return True

    def sessions(self) -> tuple[int, ...]:
        """Sessions of the warm process and of its trainers. Costs microseconds; asks nobody."""
        if not self.alive():
            return ()
        sessions = [self.pid]
        for child in children_of(self.pid):
            with suppress(ProcessLookupError):
                sessions.append(os.getsid(child))
        return tuple(dict.fromkeys(sessions))

    def kill(self) -> None:
        """SIGKILL for every trainer and all in its session, now; does not wait, and asks nobody."""
        if self.alive():
            kill_sessions(below(self.pid))

    def clear(self, seconds: float) -> tuple[int, ...]:
        """Kills and reaps every trainer. Returns the processes that the kernel still holds after `seconds`.

        Call it once the clients are gone (`kill_sessions_of_children`). A warm process without trainers is left alone,
        it may still be importing; one that has some and does not answer is killed too: they die with it.
        """
        if not self.alive() or not (children_of(self.pid) or below(self.pid)):
            return ()
        try:
            for line in self._ask({"do": "clear", "seconds": seconds}, seconds + ANSWER_SLACK_S):
                word, _, rest = line.partition(" ")
                if word == CLEAR:
                    return ()
                if word == STUCK:
                    return tuple(map(int, rest.split()))
        except WarmSilent:
            pass
        return self._end(seconds)

    def prove(self, request: ProofRequest, timeout: float) -> ProofResult:
        """The node's proof, within `timeout` seconds and a little; never raises.

        The light one is taken right here; the full one in a fork of the warm process, and without that in a fresh
        process that imports everything first.
        """
        if request.light:
            return prove(replace(request, limit_s=min(timeout, request.limit_s)))
        try:
            return self._prove_warm(request, timeout)
        except WarmSilent:
            return _prove_cold(request, timeout)

    def stop(self) -> tuple[int, ...]:
        """Ends the warm process and its trainers. Returns the processes that the kernel still holds."""
        return self._end(DEATH_LIMIT_S) if self.alive() else ()

    def _prove_warm(self, request: ProofRequest, timeout: float) -> ProofResult:
        if not self.alive():
            raise WarmSilent("no warm process")
        began = time.monotonic()
        lines = self._ask({"do": "proof", "request": request.to_json(), "seconds": timeout}, timeout + ANSWER_SLACK_S)
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == PROOF:
                return parse_result(rest)
            if word == EXIT:
                return failed_proof(f"its process ended with {rest} before its result", time.monotonic() - began)
        raise WarmSilent("no result")

    def _ask(self, request: dict[str, Any], limit_s: float) -> Iterator[str]:
        """The lines of the answer, all within `limit_s` seconds. Raises WarmSilent."""
        deadline = time.monotonic() + limit_s
        try:
            channel = connect(str(self.socket_path), limit_s)
            try:
                send_request(channel, json.dumps(request).encode())
                buffer = b""
                while (left := deadline - time.monotonic()) > 0 and len(buffer) < LINE_LIMIT:
                    channel.settimeout(left)
                    data = channel.recv(1 << 16)
                    if not data:
                        return
                    *lines, buffer = (buffer + data).split(b"\n")
                    yield from (line.decode() for line in lines)
                raise WarmSilent(f"the warm process did not answer in {limit_s:.1f} s")
            finally:
                channel.close()
        except OSError as error:
            raise WarmSilent(f"the warm process cannot be asked: {error}") from error

    def _end_predecessor(self) -> None:
        """Ends a warm process that listens here already: an agent that executes itself anew leaves its own behind."""
        try:
            channel = connect(str(self.socket_path), ANSWER_SLACK_S)
        except OSError:
            return
        try:
            credentials = channel.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, struct.calcsize("3i"))
        finally:
            channel.close()
        listener = int(struct.unpack("3i", credentials)[0])
        kill_sessions({*below(listener), listener})
        with suppress(ChildProcessError):  # it may be another's child
            deadline = time.monotonic() + DEATH_LIMIT_S
            while os.waitpid(listener, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                time.sleep(POLL_S)

    def _end(self, seconds: float) -> tuple[int, ...]:
        assert self._process is not None
        trainers = below(self.pid)
        kill_sessions({*trainers, self.pid})
        deadline = time.monotonic() + seconds
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, seconds))
        while (left := _left(trainers)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return tuple(sorted(left)) if self._process.poll() is not None else (self.pid, *sorted(left))


def _left(trainers: set[int]) -> set[int]:
    """Those that still live, or whose sessions do."""
    return {process for process, _, session in processes() if process in trainers or session in trainers}


def children_of(pid: int) -> tuple[int, ...]:
    """The children of a process, of all its threads; none if it is gone. Cheap enough to ask each second.

    The kernel may leave one out while others are ending, so what must miss nobody lists all processes instead.
    """
    if not os.path.exists("/proc/thread-self/children"):  # a kernel without CONFIG_PROC_CHILDREN
        return tuple(process for process, parent, _ in processes() if parent == pid)
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):
                children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return tuple(children)


def below(pid: int) -> set[int]:
    """All descendants of a process, from the list of all processes (1 ms a hundred)."""
    parents = {process: parent for process, parent, _ in processes()}
    found: set[int] = set()
    level = {pid}
    while level := {process for process, parent in parents.items() if parent in level} - found:
        found |= level
    return found


def kill_sessions_of_children(pid: int, spare: int = 0) -> tuple[int, ...]:
    """SIGKILL for the sessions that children of `pid` lead (torchrun's workers), except `spare`'s. Does not wait."""
    leaders = tuple(child for child, parent, session in processes() if parent == pid and child == session != spare)
    kill_sessions(leaders)
    return leaders


def _prove_cold(request: ProofRequest, timeout: float) -> ProofResult:
    began = time.monotonic()
    command = [sys.executable, "-m", "tessera_trainer.proof", json.dumps(request.to_json())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, start_new_session=True, check=False)
    except subprocess.TimeoutExpired:
        return failed_proof(f"gave no result in {timeout:.1f} s", timeout)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        return failed_proof(f"its process ended with {done.returncode}: {said}", time.monotonic() - began)
    return parse_result(done.stdout.decode())
