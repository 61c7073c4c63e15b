"""Carries out drills: writes one down, has the node hurt itself, or this coordinator itself. What is the operator's
part it does by itself, once the drill shows in the status."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tessera_api.drill import OF_COORDINATORS, Drill, Fault
from tessera_api.journal import EventName
from tessera_api.messages import FromCoordinator
from tessera_coordinator.core.drilling import Drills
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.state import State
from tessera_coordinator.records import Records

FIRST = 1


@dataclass(frozen=True)
class Means:
    """What it takes."""

    drills: Drills
    records: Records
    say: Callable[[EventName, str, str | None], None]
    deliver: Callable[[str, FromCoordinator], None]


def carry_out(drill: Drill, membership: Membership, means: Means) -> None:
    """Once, if the run allows it and the node trains."""
    generation = membership.generation
    members = generation.names() if generation and membership.state is State.OPEN else ()
    why = means.drills.refused(drill, members)
    if why is not None:
        return means.say(EventName.DRILL, f"{drill.fault.value} is refused: {why}", None) if why else None
    line = means.drills.begun(drill, members, time.time())
    means.say(EventName.DRILL, f"{drill.fault.value} is done", line.drill.node)
    means.records.add(line)
    if line.drill.node is not None:
        return means.deliver(line.drill.node, line.drill)
    if drill.fault in OF_COORDINATORS:
        # What was written down has to be known to whoever leads next.
        means.records.when_safe(partial(hurt_self, line.drill))
    return None


def hurt_self(drill: Drill) -> None:
    """Now; one that is stopped goes on after the drill's seconds. A container's first process cannot be ended or
    stopped by signals of its own container: it exits, or calls into C with the interpreter's lock held."""
    own = os.getpid()
    if own == FIRST and drill.fault is Fault.COORDINATOR_KILL:
        os._exit(128 + signal.SIGKILL)
    if own == FIRST:
        ctypes.PyDLL(None).usleep(round(drill.seconds * 1e6))
    elif drill.fault is Fault.COORDINATOR_STOP:
        command = f"sleep {drill.seconds:.1f}; kill -CONT {own}"
        subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True, stdin=subprocess.DEVNULL)
        os.kill(own, signal.SIGSTOP)
    else:
        os.kill(own, signal.SIGKILL)
