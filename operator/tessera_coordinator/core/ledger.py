"""The goodput ledger: every node-second of the run ends in exactly one cause (design.md §2.6).

Pure; time is an argument (Unix seconds). What members compute is `uncommitted` until a commit settles it as compute
or the end of the generation as lost work; only settled seconds are published, so that none ever falls. Stalls that
the trainers report (checkpoint, data) are moved out of what was computed in the same step.
"""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Where a node-second went."""

    COMPUTE = "compute"
    DATA_WAIT = "data_wait"
    CHECKPOINT_STALL = "checkpoint_stall"
    EVALUATION = "evaluation"
    START_UP = "start_up"
    RECOVERY = "recovery"
    LOST_WORK = "lost_work"
    SPARE = "spare"
    IDLE = "idle"


class Activity(StrEnum):
    """What a node is doing at this moment, as far as the coordinator can tell."""

    STARTING = "starting"
    COMPUTING = "computing"
    EVALUATING = "evaluating"
    RECOVERING = "recovering"
    SPARE = "spare"
    IDLE = "idle"


_DIRECT = {
    Activity.STARTING: Cause.START_UP,
    Activity.EVALUATING: Cause.EVALUATION,
    Activity.RECOVERING: Cause.RECOVERY,
    Activity.SPARE: Cause.SPARE,
    Activity.IDLE: Cause.IDLE,
}


class Ledger:
    """Node-seconds by cause."""

    def __init__(self, now: float, seconds: dict[str, float] | None = None) -> None:
        self._at = now
        self._settled = {cause: (seconds or {}).get(cause.value, 0.0) for cause in Cause}
        self._uncommitted = 0.0

    def advance(self, now: float, activities: dict[Activity, int]) -> None:
        """The time since the last call was spent so: number of nodes by activity."""
        passed, self._at = max(0.0, now - self._at), now
        for activity, nodes in activities.items():
            if activity is Activity.COMPUTING:
                self._uncommitted += passed * nodes
            else:
                self._settled[_DIRECT[activity]] += passed * nodes

    def stalled(self, cause: Cause, node_seconds: float) -> None:
        """Part of what counted as computing was a wait."""
        moved = min(max(0.0, node_seconds), self._uncommitted)
        self._uncommitted -= moved
        self._settled[cause] += moved

    def committed(self) -> None:
        """What was computed so far is safe."""
        self._settled[Cause.COMPUTE] += self._uncommitted
        self._uncommitted = 0.0

    def lost(self) -> None:
        """What was computed since the last commit is thrown away."""
        self._settled[Cause.LOST_WORK] += self._uncommitted
        self._uncommitted = 0.0

    def seconds(self) -> dict[str, float]:
        """Settled node-seconds by cause."""
        return {cause.value: round(value, 3) for cause, value in self._settled.items()}

    @property
    def uncommitted(self) -> float:
        """Computed, but not yet safe."""
        return self._uncommitted

    def goodput(self) -> float | None:
        """Compute (with what is not yet settled) as a share of all node-seconds."""
        total = sum(self._settled.values()) + self._uncommitted
        return (self._settled[Cause.COMPUTE] + self._uncommitted) / total if total > 0 else None
