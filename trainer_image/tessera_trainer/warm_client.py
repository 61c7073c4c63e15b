"""The thin client that stands in for a trainer under torchrun: `python -I -S warm_client.py [-m MODULE | SCRIPT] ARGS`.

It hands its arguments, environment, directory and descriptors to the node's warm process, forwards signals, and ends
as the trainer ends: with its code, or by its signal. Without a warm process it becomes the trainer itself (cold).

It runs without site packages and imports only what is built into the interpreter (10 ms instead of 30), so it can
import nothing of ours. What both ends of the socket must agree on (words, codes, bounds) therefore stands here, and
the other warm modules import it from here.

Environment: TESSERA_WARM_SOCKET (where the warm process listens), TESSERA_PYTHON (the interpreter of a cold start),
TESSERA_RANK_LOG (file to which the trainer's output is appended, `{rank}` in it standing for RANK; without it the
output is inherited),
TESSERA_GENERATION (becomes TORCHELASTIC_RESTART_COUNT), LOCAL_RANK (the slot).
"""
# ruff: noqa: SIM105 - contextlib is not built in

from __future__ import annotations

import _json
import _signal  # type: ignore[import-not-found]  # the public module costs 5 ms for its enums
import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing and collections.abc are not built in
    from collections.abc import Callable, Collection, Iterator
    from typing import NoReturn

WARM_DIED = 250
"""Exit code: the warm process died, and the trainer with it."""
TRAINER_STUCK = 251
"""Exit code: the slot's old trainer cannot be reaped (stuck in the kernel), so no new one may start."""

READY, UNFIT, PID, EXIT, COLD, STUCK, CLEAR, TRAINERS, PROOF = (
    "ready", "unfit", "pid", "exit", "cold", "stuck", "clear", "trainers", "proof",
)  # fmt: skip
"""First words of the warm process' answers, one a line."""
SIGNAL = "sig"
"""First word of the lines that a client sends after its request."""

ENDED = "tessera: the trainer ended by "
"""How the last line of a trainer's log begins, if it did not end with success."""

HEADER_BYTES = 4
"""A request is its length (little endian), then that many bytes of JSON; descriptors come with the first byte."""
REQUEST_LIMIT = 4 << 20
"""Bytes of a request at most: beyond what the kernel passes to a program (2 MiB of arguments and environment)."""
ANSWER_LIMIT_S = 30.0
"""How long a client waits for the first word: the warm process may still be importing, or freeing the slot."""

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2)."""


def processes() -> Iterator[tuple[int, int, int]]:
    """(process, parent, session) of each process that still holds something: zombies without threads do not."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptor = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError:
            continue  # it ended meanwhile
        try:
            # The name in parentheses may hold anything, so fields count from the last one: state is the first.
            fields = os.read(descriptor, 4096).rpartition(b")")[2].split()
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if fields[0] == b"X" or (fields[0] == b"Z" and int(fields[17]) <= 1):
            continue
        yield int(name), int(fields[1]), int(fields[3])


def kill_sessions(leaders: Collection[int]) -> None:
    """SIGKILL for session leaders that are not reaped yet, and for all in their sessions. Does not wait."""
    for leader in leaders:
        # A leader that has not come to its setsid yet has no group.
        _kill(os.killpg, leader)
        _kill(os.kill, leader)
    kill_members(leaders)


def kill_members(sessions: Collection[int]) -> set[int]:
    """SIGKILL for all that is in these sessions; returns the sessions that had anybody in them."""
    found = set()
    for process, _, session in processes() if sessions else ():
        if session in sessions:
            found.add(session)
            _kill(os.kill, process)
    return found


def _kill(kill: Callable[[int, int], None], target: int) -> None:
    try:
        kill(target, 9)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or another user's by now


def connect(path: str, limit_s: float) -> _socket.socket:
    """A connection to the warm process. OSError if none listens; its later waits have `limit_s` too."""
    folder, _, name = path.rpartition("/")
    # Through the folder's descriptor, because a socket's own path may have 107 bytes only.
    descriptor = os.open(folder or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(limit_s)
        connection.connect(f"/proc/self/fd/{descriptor}/{name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(descriptor)
    return connection


def send_request(connection: _socket.socket, payload: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Sends one request. ValueError if it is larger than the warm process reads."""
    if len(payload) > REQUEST_LIMIT:
        raise ValueError(f"a request has {len(payload)} bytes; the warm process takes {REQUEST_LIMIT}")
    passed = b"".join(each.to_bytes(4, sys.byteorder) for each in descriptors)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)] if passed else []
    header = len(payload).to_bytes(HEADER_BYTES, "little")
    sent = connection.sendmsg([header], rights)
    connection.sendall(header[sent:] + payload)


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when `parent`'s thread that made it ends; at once if the parent is gone already."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(SET_PARENT_DEATH_SIGNAL, 9, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), 9)


class _Stand:
    """This process, standing in for the trainer of one slot."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._arguments = arguments
        self._environment = environment
        self._parent = os.getppid()
        self._trainer = 0
        if "TESSERA_GENERATION" in environment:
            # Agents count restarts since their own start, and ranks must agree on the store prefix made of it.
            environment["TORCHELASTIC_RESTART_COUNT"] = environment["TESSERA_GENERATION"]
        self._output = self._open_output()

    def run(self) -> NoReturn:
        path = self._environment.get("TESSERA_WARM_SOCKET")
        if not path:
            self._become_trainer("TESSERA_WARM_SOCKET is not set")
        try:
            connection = connect(path, ANSWER_LIMIT_S)
            send_request(connection, self._request(), (0, *self._output))
        except (OSError, ValueError) as error:
            self._become_trainer(f"the warm process at {path} cannot be asked: {error}")
        for number in (1, 2, 3, 10, 12, 15):  # HUP INT QUIT USR1 USR2 TERM
            _signal.signal(number, lambda number, _: self._forward(connection, number))
        self._follow(connection)

    def _request(self) -> bytes:
        quote = _json.encode_basestring_ascii
        environment = ",".join(f"{quote(name)}:{quote(value)}" for name, value in self._environment.items())
        arguments = ",".join(map(quote, self._arguments))
        slot = self._environment.get("LOCAL_RANK", "0")
        processors = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        return (
            f'{{"do":"run","argv":[{arguments}],"env":{{{environment}}},"cwd":{quote(os.getcwd())},'
            f'"slot":{quote(slot)},"processors":[{processors}]}}'
        ).encode()

    def _follow(self, connection: _socket.socket) -> NoReturn:
        """Reads answers until the trainer's end. Only the first has a limit: a trainer may take weeks."""
        buffer = b""
        while True:
            try:
                data = connection.recv(4096)
            except TimeoutError:
                connection.close()  # the warm process drops what it may have begun for us
                self._become_trainer(f"the warm process gave no answer in {ANSWER_LIMIT_S:.0f} s")
            except OSError:
                data = b""
            if not data:
                self._lose_warm()
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self._hear(connection, *line.decode("utf-8", "replace").partition(" ")[::2])

    def _hear(self, connection: _socket.socket, word: str, rest: str) -> None:
        if word == PID:
            self._trainer = int(rest)
            connection.settimeout(None)
        elif word == EXIT:
            self._record(int(rest))
            _end_like(int(rest))
        elif word == STUCK:
            _say(f"process {rest} of this slot's old trainer cannot be ended (stuck in the kernel): no start")
            os._exit(TRAINER_STUCK)
        elif word == COLD:
            connection.close()
            self._become_trainer(rest)

    def _record(self, code: int) -> None:
        """The last line of the trainer's own log, where it has one: what ended it, if it was not success."""
        if code and self._output != (1, 2):
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            try:
                os.write(self._output[1], f"{ENDED}{how}\n".encode())
            except OSError:
                pass  # a full disk costs the line

    def _forward(self, connection: _socket.socket, number: int) -> None:
        try:
            connection.sendall(f"{SIGNAL} {number}\n".encode())
        except OSError:
            pass  # the warm process is gone; the reader is about to notice

    def _lose_warm(self) -> NoReturn:
        if not self._trainer:
            self._become_trainer("the warm process died before it answered")
        _say("the warm process of this node died, and the trainer with it")
        kill_members((self._trainer,))  # the trainer died by itself; what it had started did not
        os._exit(WARM_DIED)

    def _become_trainer(self, reason: str) -> NoReturn:
        """Starts the trainer in this process, by a fresh interpreter. An empty reason was said before."""
        if reason:
            _say(f"cold start: {reason}")
        for number in (1, 2, 3, 10, 12, 15):
            _signal.signal(number, _signal.SIG_DFL)
        die_with_parent(self._parent)
        for target, source in enumerate(self._output, start=1):
            os.dup2(source, target)
        python = self._environment.get("TESSERA_PYTHON") or sys.executable
        try:
            os.execve(python, [python, *self._arguments], self._environment)
        except OSError as error:
            _say(f"cannot start {python} (TESSERA_PYTHON): {error}")
            os._exit(127)

    def _open_output(self) -> tuple[int, int]:
        """Descriptors for the trainer's standard output and error."""
        path = self._environment.get("TESSERA_RANK_LOG")
        if not path:
            return 1, 2
        path = path.replace("{rank}", self._environment.get("RANK", "0"))
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            _say(f"the trainer's output goes to its agent's, since its log cannot be opened: {error}")
            return 1, 2
        return log, log


def _say(text: str) -> None:
    try:
        os.write(2, f"tessera warm client {os.getpid()}: {text}\n".encode())
    except OSError:
        pass  # nobody reads us


def _end_like(code: int) -> NoReturn:
    """Exits with a code >= 0, or dies by signal -code, without a core: the trainer has left one."""
    if code >= 0:
        os._exit(code)
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code not in (9, 19):  # KILL, STOP have no handler
        _signal.signal(-code, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [-code])
    os.kill(os.getpid(), -code)
    os._exit(128 - code)


if __name__ == "__main__":
    _Stand(sys.argv[1:], dict(os.environ)).run()
