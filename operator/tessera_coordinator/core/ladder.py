"""The ladder: what is done about a generation's end, by how often the same cause came back, and how long is waited
before the next try. Pure; which rungs a class has: `failures.POLICIES`.

Counted are generations that ended of the same cause (class and place) without a step beyond the best before. What must
stay true: a run that makes progress is never ended, and neither is one that infrastructure alone has stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tessera_api.failure import FailureClass, Rung
from tessera_api.incident import Incident
from tessera_coordinator.core.causes import Cause
from tessera_coordinator.core.failures import POLICIES, counts

AT_ONCE = 2
"""So many generations in a row may end without a step and be followed at once: a loss in a start is nothing rare."""
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class Ruling:
    """What became of it."""

    cause: Cause
    rung: Rung
    count: int
    """The how-manieth generation in a row it was that ended of this, where that is counted."""
    remedy: str = ""
    """Where the run ends."""


class Ladder:
    """See the module. `jitter`, a number between 0 and 1: many runs that wait for one thing come at other times."""

    def __init__(self, jitter: Callable[[], float] = lambda: 1.0) -> None:
        self._jitter = jitter
        self._place = ""
        self._failure: FailureClass | None = None
        self._count = 0
        self._nodes: frozenset[str] = frozenset()
        """Where the cause was met."""
        self._fruitless = 0
        """Generations in a row that ended without any step."""
        self.pause_s = 0.0
        """How long to wait before the next generation is opened."""

    @classmethod
    def resumed(cls, incidents: Iterable[Incident], jitter: Callable[[], float] = lambda: 1.0) -> Ladder:
        """From what was written of the incidents, in order: a coordinator that takes over climbs on."""
        ladder, best = cls(jitter), -1
        for known in incidents:
            if known.failure is not None:
                nodes = frozenset([known.node] if known.node else [])
                ladder.climb(
                    Cause(known.failure, known.place, known.node, nodes=nodes), known.highest_step_before, best
                )
            best = max(best, known.highest_step_before)
        return ladder

    def over(self, highest_step: int) -> None:
        """A generation is over; -1: it made no step."""
        self._fruitless = self._fruitless + 1 if highest_step < 0 else 0
        more = self._fruitless - AT_ONCE
        longest = min(LONGEST_PAUSE_SECONDS, 2.0 ** (min(more, 10) - 1)) if more > 0 else 0.0
        self.pause_s = longest * (0.5 + 0.5 * self._jitter())

    def climb(self, cause: Cause, highest_step: int, best_before: int) -> Ruling:
        """What is to be done. `best_before`: the highest step that any generation before it had reached."""
        if highest_step > best_before or not counts(cause.failure) or not cause.place:
            self._count, self._place, self._nodes = 0, "", frozenset()
        if not counts(cause.failure) or not cause.place:
            return Ruling(cause, _possible(POLICIES[cause.failure].rungs[0], cause), 0)
        if cause.place != self._place:
            self._count, self._nodes = 0, frozenset()
        came_back = self._count > 0
        self._count, self._place = self._count + 1, cause.place
        cause = self._again(cause) if came_back else cause
        self._failure, self._nodes = cause.failure, self._nodes | cause.nodes
        policy = POLICIES[cause.failure]
        rung = Rung.END if cause.permanent else _possible(policy.rung(self._count), cause)
        return Ruling(cause, rung, self._count, _last_words(cause, self._count) if rung is Rung.END else "")

    def _again(self, cause: Cause) -> Cause:
        """What repeats on another node is the program's."""
        elsewhere = len(cause.nodes | self._nodes) > 1
        known = self._failure is FailureClass.USER_ERROR
        if cause.failure in (FailureClass.WORKER_CRASH, FailureClass.HANG) and (elsewhere or known):
            return replace(cause, failure=FailureClass.USER_ERROR)
        return cause


def _possible(rung: Rung, cause: Cause) -> Rung:
    """Nobody is replaced where nobody is to blame: all are. And where nothing at all is known, nobody has to prove
    anything."""
    if cause.failure is FailureClass.UNKNOWN and cause.node is None:
        return Rung.RESTART
    return Rung.ELSEWHERE if rung is Rung.REPLACE and cause.node is None else rung


def _last_words(cause: Cause, count: int) -> str:
    again = "" if cause.permanent else f"{count} generations in a row ended without a new step: "
    said = f" ({cause.words})" if cause.words and cause.words != cause.place else ""
    return f"{again}{POLICIES[cause.failure].remedy}: {cause.place}{said}"[:2000]
