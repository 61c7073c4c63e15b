"""A node's part of a drill: it hurts itself. What is stopped goes on after the drill's seconds, by a process of its own
session, which outlives whatever is hurt."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from tessera_api.drill import LASTING, OF_READING, OF_STORING, OF_THE_GUARD, Drill, Fault
from tessera_run.clock_drill import step_clock

SLICE_SECONDS = 0.25
SILENT_SECONDS = 30.0
"""Of a node that has lost its power, until its processes are ended: by then everybody has given it up."""
FIRST = 1
"""A container's first process: the kernel keeps signals of its own container from ending or stopping it."""
SHARE = 0.2
"""Of each slice, what a slowed trainer has."""


@dataclass(frozen=True)
class Surroundings:
    """What a drill can reach on this node."""

    trainers: Callable[[], Mapping[int, int]]
    """Pids by rank."""
    others: Callable[[], Iterable[int]]
    """The node's further processes, without the agent: they die with it."""
    tell: Callable[[dict[str, object]], None]
    """A document for every trainer of this node. From any thread."""
    storing: Callable[[Drill], None]
    """Has the keeper hurt what it stores."""
    cut: Callable[[float], None]
    """No stream to any coordinator for so many seconds,"""
    shake: Callable[[float], None]
    """or one as over a network that loses packets."""


_SIGNALS = {
    Fault.WORKER_KILL: signal.SIGKILL,
    Fault.WORKER_SEGFAULT: signal.SIGSEGV,
    Fault.WORKER_ABORT: signal.SIGABRT,
    Fault.WORKER_STOP: signal.SIGSTOP,
    Fault.AGENT_KILL: signal.SIGKILL,
    Fault.AGENT_STOP: signal.SIGSTOP,
    Fault.NODE_KILL: signal.SIGKILL,
    Fault.NODE_STOP: signal.SIGSTOP,
    Fault.POWER_LOSS: signal.SIGSTOP,
    Fault.NODE_TERMINATE: signal.SIGTERM,
}
_OF_A_WORKER = (Fault.WORKER_KILL, Fault.WORKER_SEGFAULT, Fault.WORKER_ABORT, Fault.WORKER_STOP)
_OF_THE_NODE = (Fault.NODE_KILL, Fault.NODE_STOP, Fault.POWER_LOSS)
_OF_A_PROGRAM = OF_READING | OF_THE_GUARD | {Fault.WORKER_EXCEPTION, Fault.OUT_OF_MEMORY, Fault.LOCK_HOG}


def perform(drill: Drill, node: Surroundings) -> None:
    """Do it now. Faults that last go on in a thread or process of their own; the coordinator's are its own affair."""
    trainers = node.trainers()
    match drill.fault:
        case fault if fault in _SIGNALS:
            _by_signal(drill, _victims(fault, trainers, node))
        case fault if fault in _OF_A_PROGRAM:
            node.tell({"drill": fault.value, "rank": min(trainers, default=0)})
        case fault if fault in OF_STORING:
            node.storing(drill)
        case Fault.CLOCK_STEP:
            step_clock(drill.seconds)
            for rank in trainers:
                node.tell({"drill": drill.fault.value, "rank": rank, "seconds": drill.seconds})
        case Fault.SLOW_NODE:
            threading.Thread(target=_slow, args=(drill.seconds, node), daemon=True).start()
        case Fault.STREAM_CUT | Fault.PACKET_LOSS as fault:
            (node.cut if fault is Fault.STREAM_CUT else node.shake)(drill.seconds)
        case _:
            pass


def _by_signal(drill: Drill, pids: list[int]) -> None:
    lost = drill.fault is Fault.POWER_LOSS
    if lost:
        later(SILENT_SECONDS, "KILL", pids)
    elif drill.fault in LASTING:
        later(drill.seconds, "CONT", pids)
    _signal(_SIGNALS[drill.fault], pids)
    if os.getpid() == FIRST and FIRST in pids:
        _as_first(_SIGNALS[drill.fault], SILENT_SECONDS if lost else drill.seconds)
        if lost:
            os._exit(128 + signal.SIGKILL)


def _victims(fault: Fault, trainers: Mapping[int, int], node: Surroundings) -> list[int]:
    """This process last."""
    if fault in _OF_A_WORKER:
        return [trainers[min(trainers)]] if trainers else []
    others = [*trainers.values(), *node.others()] if fault in _OF_THE_NODE else []
    return [*dict.fromkeys(others), os.getpid()]


def later(seconds: float, signal_name: str, pids: Iterable[int]) -> None:
    """Someone of a session of its own sends these processes a signal after so many seconds."""
    command = f"sleep {seconds:.1f}; kill -{signal_name} {' '.join(map(str, pids))}"
    subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True, stdin=subprocess.DEVNULL)


def _signal(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(pid, number)


def _as_first(number: signal.Signals, seconds: float) -> None:
    """What the signal would have done. All of a container dies with its first process; a call into C that keeps the
    interpreter's lock lets no thread of this one do anything."""
    if number is signal.SIGKILL:
        os._exit(128 + number)
    if number is signal.SIGSTOP:
        ctypes.PyDLL(None).usleep(round(seconds * 1e6))


def _slow(seconds: float, node: Surroundings) -> None:
    """Trainers run for a share of each slice; whoever begins meanwhile is slowed too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pids = tuple(node.trainers().values())
        for number, share in ((signal.SIGSTOP, 1 - SHARE), (signal.SIGCONT, SHARE)):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(share * SLICE_SECONDS)
