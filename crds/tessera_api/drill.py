"""Drills: faults on demand, on runs that allow them, so that recovery is shown before it is needed.

Owns which faults there are and what is promised of each. A drill is an order of a controller (orders.py); the
coordinator writes it down, and has the node in question hurt itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from tessera_api.record import Name, Record

MOST_SECONDS = 600.0


class Fault(StrEnum):
    """What is done, and to whom."""

    WORKER_KILL = "worker-kill"
    """A trainer is ended by SIGKILL,"""
    WORKER_SEGFAULT = "worker-segfault"
    """by SIGSEGV,"""
    WORKER_ABORT = "worker-abort"
    """by SIGABRT, as a watchdog does."""
    WORKER_EXCEPTION = "worker-exception"
    """A trainer raises an exception after its next step."""
    LOADER_EXCEPTION = "loader-exception"
    """A thread that reads data for a trainer raises one."""
    OUT_OF_MEMORY = "out-of-memory"
    """A trainer asks for more memory than there is."""
    WORKER_STOP = "worker-stop"
    """A trainer is stopped by SIGSTOP, for good: it hangs."""
    LOCK_HOG = "lock-hog"
    """A thread of a trainer computes in C and never lets go of the interpreter's lock: it hangs."""
    NAN_GRADIENT = "nan-gradient"
    """A trainer's loss is no number in its next step, and its gradients are none: its device is taken for sick."""
    LOSS_SPIKE = "loss-spike"
    """A trainer's share of the weights becomes wrong: the loss of all rises."""
    CORRUPT_SHARD = "corrupt-shard"
    """A block of a dataset comes to a trainer with a bit that is wrong."""
    SLOW_STORAGE = "slow-storage"
    """Each part of a checkpoint takes the node's keeper seconds more to store,"""
    DISK_FULL = "disk-full"
    """or the storage has no room for it,"""
    TORN_UPLOAD = "torn-upload"
    """or half of the next one gets there."""
    CLOCK_STEP = "clock-step"
    """The clocks of the node's processes are an hour off."""
    AGENT_KILL = "agent-kill"
    """The node's agent is ended by SIGKILL, and all of the node with it."""
    AGENT_STOP = "agent-stop"
    """The agent is stopped: the node says nothing any more, and its trainers go on."""
    NODE_KILL = "node-kill"
    """All processes of the node are ended at once,"""
    NODE_STOP = "node-stop"
    """or stopped."""
    POWER_LOSS = "power-loss"
    """All of the node falls silent at once and for good; no connection of it is closed."""
    NODE_TERMINATE = "node-terminate"
    """The node is told to end (SIGTERM): it hands over."""
    SLOW_NODE = "slow-node"
    """The node's trainers have a fifth of the time."""
    STREAM_CUT = "stream-cut"
    """The node does not reach the coordinator."""
    PACKET_LOSS = "packet-loss"
    """What the node and the coordinator say to each other comes late and in bursts."""
    COORDINATOR_KILL = "coordinator-kill"
    """The leading coordinator is ended by SIGKILL,"""
    COORDINATOR_STOP = "coordinator-stop"
    """or stopped."""
    API_SLOW = "api-slow"
    """The API server answers seconds late whatever the operator asks of it for this run,"""
    API_AWAY = "api-away"
    """or not at all."""


LASTING = frozenset(
    (
        Fault.SLOW_STORAGE,
        Fault.DISK_FULL,
        Fault.CLOCK_STEP,
        Fault.AGENT_STOP,
        Fault.NODE_STOP,
        Fault.SLOW_NODE,
        Fault.STREAM_CUT,
        Fault.PACKET_LOSS,
        Fault.COORDINATOR_STOP,
        Fault.API_SLOW,
        Fault.API_AWAY,
    )
)
"""These last for the drill's `seconds`, then the processes go on; the others are done at once."""
OF_STORING = frozenset((Fault.SLOW_STORAGE, Fault.DISK_FULL, Fault.TORN_UPLOAD))
"""Done by the node's keeper, which stores for our trainer."""
OF_READING = frozenset((Fault.LOADER_EXCEPTION, Fault.CORRUPT_SHARD))
OF_THE_GUARD = frozenset((Fault.NAN_GRADIENT, Fault.LOSS_SPIKE))
OF_OUR_TRAINER = OF_STORING | OF_READING | OF_THE_GUARD
"""Other programs know nothing of these."""
OF_COORDINATORS = frozenset((Fault.COORDINATOR_KILL, Fault.COORDINATOR_STOP))
OF_THE_API_SERVER = frozenset((Fault.API_SLOW, Fault.API_AWAY))
"""Done by the operator, once the coordinator shows the drill; a run without a cluster has neither."""


class Drill(Record):
    """An order of a controller, passed on to the node."""

    kind: Literal["drill"] = "drill"
    identity: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
    """Of this order: one that is told again is not done again."""
    fault: Fault
    node: Name | None = None
    """None: the node of rank 0."""
    seconds: Annotated[float, Field(ge=0, le=MOST_SECONDS)] = 10.0
    """How long a fault lasts that does."""


@dataclass(frozen=True)
class Promise:
    """What is to come of a fault. Seconds."""

    detect: float | None
    """From the fault to its detection; None: nothing is detected, and no generation ends."""
    recover: float = 0.0
    """From the detection to the next step, beyond what a step takes."""


_AT_ONCE = Promise(detect=5.0, recover=30.0)
_SILENT = Promise(detect=10.0, recover=30.0)
"""Where another node trains too: that the only one is silent nobody else can say, and it is given 15 s."""
HANG = Promise(detect=5.0, recover=30.0)
"""Beyond the run's `hangSeconds`."""
GUARD = Promise(detect=60.0, recover=30.0)
"""Ten steps at most, of up to 6 s; more steps are lost than elsewhere, since training goes back to before the rise."""
NOTHING = Promise(detect=None)

PROMISES = {
    Fault.WORKER_KILL: _AT_ONCE,
    Fault.WORKER_SEGFAULT: _AT_ONCE,
    Fault.WORKER_ABORT: _AT_ONCE,
    Fault.WORKER_EXCEPTION: _AT_ONCE,
    Fault.LOADER_EXCEPTION: _AT_ONCE,
    Fault.OUT_OF_MEMORY: _AT_ONCE,
    Fault.WORKER_STOP: HANG,
    Fault.LOCK_HOG: HANG,
    Fault.NAN_GRADIENT: _AT_ONCE,
    Fault.LOSS_SPIKE: GUARD,
    Fault.CORRUPT_SHARD: _AT_ONCE,
    Fault.SLOW_STORAGE: NOTHING,
    Fault.DISK_FULL: NOTHING,
    Fault.TORN_UPLOAD: NOTHING,
    Fault.CLOCK_STEP: NOTHING,
    Fault.AGENT_KILL: _AT_ONCE,
    Fault.AGENT_STOP: NOTHING,
    Fault.NODE_KILL: _AT_ONCE,
    Fault.NODE_STOP: _SILENT,
    Fault.POWER_LOSS: _SILENT,
    Fault.NODE_TERMINATE: NOTHING,
    Fault.SLOW_NODE: NOTHING,
    Fault.STREAM_CUT: NOTHING,
    Fault.PACKET_LOSS: NOTHING,
    Fault.COORDINATOR_KILL: NOTHING,
    Fault.COORDINATOR_STOP: NOTHING,
    Fault.API_SLOW: NOTHING,
    Fault.API_AWAY: NOTHING,
}
"""On any machine and model; how much better it is where it was measured, benchmarks/RESULTS.md tells. Of steps no more
are lost than those since the newest checkpoint that could have been committed: two intervals between checkpoints."""
