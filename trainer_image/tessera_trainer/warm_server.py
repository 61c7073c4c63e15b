"""The warm process' loop: it takes requests, forks, reaps, and kills.

Owns the node's trainers: one per slot (place on the node, LOCAL_RANK), each in a session of its own. What must stay
true: it blocks nowhere but in its one poll; the end of a client's connection is the end of its trainer; the old trainer
of a slot, with all that it started, is gone before the next is forked or told to start cold.

Requests: `warm_request`. Answers: a line each, words of `warm_client`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera_trainer import proof
from tessera_trainer.warm_child import fork, run_program
from tessera_trainer.warm_client import (
    CLEAR,
    COLD,
    EXIT,
    PID,
    PROOF,
    READY,
    SIGNAL,
    STUCK,
    TRAINERS,
    UNFIT,
    kill_members,
    kill_sessions,
    processes,
)  # fmt: skip
from tessera_trainer.warm_connection import Connection
from tessera_trainer.warm_request import Ask, Clear, Prove, Request, Run, parse_request, unfit_argv
from tessera_trainer.warm_settings import differing_settings

REQUEST_LIMIT_S = 5.0
"""How long a client may take to send its request."""
SLOT_LIMIT_S = 5.0
"""How long a slot's old trainer may take to die (design.md §2.1: formation waits as long)."""
CONNECTIONS = 1024
"""A further client is turned away, and starts cold."""
PROOF_ANSWER_LIMIT_S = 1.0


@dataclass(slots=True)
class _Fork:
    """A trainer or a proof, until it and its whole session are gone. `slot` is None for a proof."""

    pid: int
    slot: int | None
    connection: Connection | None
    deadline: float | None = None
    """When a proof is killed."""
    reaped: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that others must die for first."""

    connection: Connection
    request: Run | Clear
    deadline: float


class Warm:
    """The loop and its state. `loaded`: the environment at this process' start; `unfit`: why no trainer is forked."""

    def __init__(
        self, listener: socket.socket, loaded: Mapping[str, str], unfit: str, log: Callable[[str], None]
    ) -> None:
        self._listener = listener
        self._loaded = loaded
        self._imported = {name: value for name, value in os.environ.items() if loaded.get(name) != value}
        self._unfit = unfit
        self._log = log
        self._said: set[str] = set()
        self._connections: dict[int, Connection] = {}
        self._forks: dict[int, _Fork] = {}
        self._waiting: list[_Waiting] = []
        self._woken, self._wakes = socket.socketpair()
        self._poll = select.poll()

    def serve(self) -> None:
        """For ever."""
        for channel in (self._woken, self._wakes, self._listener):
            channel.setblocking(False)
        for channel in (self._woken, self._listener):
            self._poll.register(channel, select.POLLIN)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._reap()  # what ended before the handler stood
        while True:
            for descriptor, _ in self._poll.poll(self._patience_ms()):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._woken.fileno():
                    self._woken.recv(4096)
                elif descriptor in self._connections:
                    self._read(self._connections[descriptor])
            self._reap()
            self._advance(time.monotonic())

    def _patience_ms(self) -> float | None:
        due = [each.deadline for each in self._connections.values() if each.deadline is not None]
        due += [each.deadline for each in self._forks.values() if each.deadline is not None]
        due += [each.deadline for each in self._waiting]
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    # ---- connections

    def _accept(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError:
            return  # the client is gone again, or we are out of descriptors: it will start cold
        connection = Connection(channel, time.monotonic() + REQUEST_LIMIT_S)
        if not connection.is_ours():
            connection.close()
            return
        if len(self._connections) >= CONNECTIONS:
            connection.say(f"{COLD} {CONNECTIONS} clients are there already")
            connection.close()
            return
        self._connections[channel.fileno()] = connection
        self._poll.register(channel, select.POLLIN)

    def _drop(self, connection: Connection) -> None:
        """Ends a connection and whatever it stands for."""
        self._waiting = [each for each in self._waiting if not self._abandon(each, connection)]
        for each in self._forks.values():
            if each.connection is connection:
                each.connection = None
                self._kill(each)
        if self._connections.pop(connection.channel.fileno(), None):
            self._poll.unregister(connection.channel)
        connection.close()

    def _abandon(self, waiting: _Waiting, connection: Connection) -> bool:
        if waiting.connection is not connection:
            return False
        _close(waiting.request)
        return True

    def _answer(self, connection: Connection, line: str) -> None:
        """The last word to a client."""
        connection.say(line)
        self._drop(connection)

    def _read(self, connection: Connection) -> None:
        open_still = connection.read()
        try:
            taken = connection.take()
            request = parse_request(*taken) if taken else None
        except ValueError as error:
            self._answer(connection, f"{COLD} the warm process does not take the request: {error}")
            return
        if request is not None:
            self._begin(connection, request)
        if not open_still:
            self._drop(connection)
            return
        self._pass_signals(connection)

    def _pass_signals(self, connection: Connection) -> None:
        """Signals that come while the slot's old trainer dies wait in the connection for the new one."""
        trainer = next((each for each in self._forks.values() if each.connection is connection), None)
        if trainer is None or trainer.reaped:
            return
        for line in connection.lines():
            word, _, number = line.partition(" ")
            if word == SIGNAL and number.isdecimal() and int(number) in set(signal.valid_signals()):
                _signal_group(trainer.pid, int(number))

    # ---- requests

    def _begin(self, connection: Connection, request: Request) -> None:
        now = time.monotonic()
        match request:
            case Run():
                self._free(request.slot)
                self._waiting.append(_Waiting(connection, request, now + SLOT_LIMIT_S))
            case Clear():
                self._turn_away(lambda run: True)
                kill_sessions(self._below())
                self._waiting.append(_Waiting(connection, request, now + request.seconds))
            case Prove():
                self._prove(connection, request, now)
            case Ask.READY:
                self._answer(connection, f"{UNFIT} {self._unfit}" if self._unfit else f"{READY} {os.getpid()}")
            case Ask.LIST:
                trainers = [{"slot": each.slot, "pid": each.pid, "session": each.pid} for each in self._trainers()]
                self._answer(connection, f"{TRAINERS} {json.dumps(trainers)}")

    def _advance(self, now: float) -> None:
        """Forgets forks whose session is empty, then serves those who waited for that, and ends what is overdue."""
        ended = {each.pid for each in self._forks.values() if each.reaped}
        for pid in ended - kill_members(ended):  # what a trainer started does not outlive it
            del self._forks[pid]
        for waiting in tuple(self._waiting):
            if waiting in self._waiting:  # still: serving one may drop another
                self._try(waiting, now)
        for connection in [each for each in self._connections.values() if each.deadline and now >= each.deadline]:
            self._drop(connection)
        for each in self._forks.values():
            if each.deadline and now >= each.deadline:
                each.deadline = None
                self._kill(each)

    def _try(self, waiting: _Waiting, now: float) -> None:
        match waiting.request:
            case Run(slot=slot) as request:
                stuck = {each.pid for each in self._trainers() if each.slot == slot}
                if waiting.connection.is_gone():
                    self._drop(waiting.connection)
                    return
                if not stuck:
                    self._waiting.remove(waiting)
                    self._start(waiting.connection, request)
                    return
            case Clear():
                stuck = self._below()
                if not stuck:
                    self._answer(waiting.connection, CLEAR)
                    return
                kill_sessions(stuck - self._forks.keys())  # came to us when a trainer died
        if now >= waiting.deadline:
            self._answer(waiting.connection, f"{STUCK} {' '.join(map(str, sorted(stuck)))}")

    def _free(self, slot: int) -> None:
        """Begins to end what is in the slot; an older claim to it ends as the trainer would have."""
        self._turn_away(lambda run: run.slot == slot)
        self._kill(*(each for each in self._trainers() if each.slot == slot))

    def _turn_away(self, which: Callable[[Run], bool]) -> None:
        """Ends clients whose trainers are not forked yet. They must not start cold: nobody would know of them."""
        for waiting in tuple(self._waiting):
            if isinstance(waiting.request, Run) and which(waiting.request):
                self._answer(waiting.connection, f"{EXIT} {-signal.SIGKILL}")

    def _below(self) -> set[int]:
        """Trainers, and what their like left to us as subreaper; not the proofs."""
        mine, proofs = os.getpid(), {each.pid for each in self._forks.values() if each.slot is None}
        left = {process for process, parent, _ in processes() if parent == mine} - proofs
        return left | {each.pid for each in self._trainers()}

    def _kill(self, *ended: _Fork) -> None:
        kill_sessions({each.pid for each in ended if not each.reaped})

    def _trainers(self) -> list[_Fork]:
        return [each for each in self._forks.values() if each.slot is not None]

    # ---- forks

    def _start(self, connection: Connection, request: Run) -> None:
        reason = self._unfit or unfit_argv(request.argv)
        if differing := differing_settings(self._loaded, request.environment):
            reason = reason or f"settings that are read at load differ from this node's: {', '.join(differing)}"
        try:
            if not reason:
                pid = fork(self._close_all, lambda: run_program(request, self._imported))
                self._forks[pid] = _Fork(pid, request.slot, connection)
                connection.say(f"{PID} {pid}")
        except OSError as error:
            reason = f"the warm process cannot fork: {error}"
        _close(request)
        if reason:
            self._answer(connection, f"{COLD} {self._once(reason)}")
        else:
            self._pass_signals(connection)

    def _once(self, reason: str) -> str:
        """The reason if nobody heard it yet."""
        if reason in self._said:
            return ""
        self._said.add(reason)
        self._log(f"cold start: {reason}")
        return reason

    def _prove(self, connection: Connection, request: Prove, now: float) -> None:
        if self._unfit:
            self._answer(connection, f"{COLD} {self._unfit}")
            return
        channel = connection.channel
        try:
            pid = fork(lambda: self._close_all(channel), lambda: _proof_body(channel, request.request))
        except OSError as error:
            self._answer(connection, f"{COLD} the warm process cannot fork: {error}")
            return
        self._forks[pid] = _Fork(pid, None, connection, now + request.seconds)

    def _close_all(self, kept: socket.socket | None = None) -> None:
        """In a fork: closes the warm process' descriptors, so that a connection's end is seen by its peer."""
        for channel in (self._listener, self._woken, self._wakes):
            channel.close()
        for connection in self._connections.values():
            if connection.channel is not kept:
                connection.close()
        for waiting in self._waiting:
            _close(waiting.request)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._forks.get(pid)
            if ended is None:
                continue  # an orphan that came to us as subreaper
            ended.reaped, ended.deadline = True, None
            if ended.connection is not None:
                connection, ended.connection = ended.connection, None
                self._answer(connection, f"{EXIT} {os.waitstatus_to_exitcode(status)}")


def _proof_body(channel: socket.socket, request: Mapping[str, Any]) -> int:
    answer = f"{PROOF} {proof.prove_json(request)}\n".encode()
    channel.settimeout(PROOF_ANSWER_LIMIT_S)
    channel.sendall(answer)
    return 0


def _close(request: Run | Clear) -> None:
    if isinstance(request, Run):
        for descriptor in request.descriptors:
            os.close(descriptor)


def _signal_group(pid: int, number: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, number)
            return
        except ProcessLookupError:
            continue  # it has not come to its setsid yet, or has ended
