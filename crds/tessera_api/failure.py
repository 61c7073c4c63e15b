"""The words for failures: of which class one is, and what the run does about it."""

from __future__ import annotations

from enum import StrEnum


class FailureClass(StrEnum):
    """Why a generation ended unplanned. A closed set; what says which: `tessera_coordinator.core.failures`."""

    WORKER_CRASH = "WorkerCrash"
    """A trainer ended by an error or a signal, on one node alone."""
    USER_ERROR = "UserError"
    """The program's own: half of the ranks meet it before the first step, or it repeats on another node."""
    LOST_NODE = "LostNode"
    HANG = "Hang"
    OUT_OF_MEMORY = "OutOfMemory"
    """Of the host's memory."""
    DEVICE_OUT_OF_MEMORY = "DeviceOutOfMemory"
    LOSS_SPIKE = "LossSpike"
    NON_FINITE = "NonFinite"
    PREEMPTION = "Preemption"
    """The node was told to end: eviction, drain, the end of a spot machine."""
    STORAGE = "StorageTrouble"
    SICK_DEVICE = "SickDevice"
    """A device, or its links, reported an error that is no program's; the node itself may live."""
    UNKNOWN = "Unknown"


class Rung(StrEnum):
    """What the run does so that it goes on: a ladder, of which a cause that comes back climbs the next rung."""

    RESTART = "RestartInPlace"
    """The same nodes, with new trainers."""
    RE_FORM = "ReForm"
    """The same nodes, once the one in question, or each where none is, has proven itself in full."""
    REPLACE = "ReplaceNode"
    """Another node in place of the one in question: a spare first; without one the run shrinks until there is one, or
    waits for it where it may not."""
    ELSEWHERE = "RecreateElsewhere"
    """All nodes are replaced."""
    END = "End"
    """The run has failed; its reason says what to mend."""
