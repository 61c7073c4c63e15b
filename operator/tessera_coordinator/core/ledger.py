"""The goodput ledger: every node-second of the run ends in exactly one cause (design.md §2.6).

Pure. What members compute is `uncommitted` until a commit settles what came up to its step as compute, or the next
generation what came after the step that it begins from as lost work; only settled seconds are published, so that none
ever falls. Stalls that the trainers report (checkpoint, data) are moved out of what was computed in the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

MOST_MARKS = 100_000


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

    def __init__(self, seconds: Mapping[str, float] | None = None, uncommitted: float = 0.0) -> None:
        self._settled = {cause: (seconds or {}).get(cause.value, 0.0) for cause in Cause}
        self._uncommitted = uncommitted
        self._marks: dict[int, float] = {}
        """What was uncommitted when a step was complete, in order; not known of steps before this coordinator."""

    def spend(self, activity: Activity, node_seconds: float) -> None:
        """Nodes have done that for so long, in sum."""
        if activity is Activity.COMPUTING:
            self._uncommitted += max(0.0, node_seconds)
        else:
            self._settled[_DIRECT[activity]] += max(0.0, node_seconds)

    def stalled(self, cause: Cause, node_seconds: float) -> None:
        """Part of what counted as computing was a wait."""
        moved = min(max(0.0, node_seconds), self._uncommitted)
        self._uncommitted -= moved
        self._settled[cause] += moved

    def stepped(self, step: int) -> None:
        """A step is complete."""
        self._marks[step] = self._uncommitted
        if len(self._marks) > MOST_MARKS:
            del self._marks[next(iter(self._marks))]

    def committed(self, step: int) -> None:
        """What was computed up to this step is safe; all of it, where no later one is known."""
        later = any(mark > step for mark in self._marks)
        safe = self._until(step, self._uncommitted) if later else self._uncommitted
        self._settled[Cause.COMPUTE] += safe
        self._uncommitted -= safe
        self._marks = {later: mark - safe for later, mark in self._marks.items() if later > step}

    def began(self, step: int) -> None:
        """A generation begins from this step: what was computed after it is thrown away; all that is not committed,
        where it is not known how much that was."""
        kept = self._until(step, 0.0)
        self._settled[Cause.LOST_WORK] += self._uncommitted - kept
        self._uncommitted = kept
        self._marks = {earlier: mark for earlier, mark in self._marks.items() if earlier <= step}

    def lost(self) -> None:
        """What was computed since the last commit is thrown away."""
        self._settled[Cause.LOST_WORK] += self._uncommitted
        self._uncommitted = 0.0
        self._marks.clear()

    def _until(self, step: int, unknown: float) -> float:
        """What of the uncommitted was computed up to this step."""
        return min(max(0.0, self._marks[step]), self._uncommitted) if step in self._marks else unknown

    def seconds(self) -> dict[str, float]:
        """Settled node-seconds by cause."""
        return {cause.value: round(value, 3) for cause, value in self._settled.items()}

    @property
    def uncommitted(self) -> float:
        """Computed, but not yet safe."""
        return self._uncommitted

    @property
    def total(self) -> float:
        """All node-seconds, settled or not."""
        return sum(self._settled.values()) + self._uncommitted

    def goodput(self) -> float | None:
        """Compute (with what is not yet settled) as a share of all node-seconds."""
        return (self._settled[Cause.COMPUTE] + self._uncommitted) / self.total if self.total > 0 else None

    def ettr(self) -> float | None:
        """Effective training time: the same share of what was not spent on standing ready. None: nothing was."""
        trained = self.total - self._settled[Cause.SPARE]
        return (self._settled[Cause.COMPUTE] + self._uncommitted) / trained if trained > 0 else None


def cost(node_seconds: float, node_price: float) -> float:
    """Of so many node-seconds, in the price's currency."""
    return node_seconds / 3600.0 * node_price
