"""The ladder: what is done about a generation's end, by how often the same cause came back, and how long is waited
before the next try. Pure; which rungs a class has: `failures.POLICIES`.

Counted are generations that ended of the same cause (place, and node or rank) without a step beyond the best before.
What must stay true: a run that makes progress is never ended, and neither is one that infrastructure alone has stopped,
or that has bad luck: on thousands of GPUs two failures at one line, one soon after the other, are nothing rare
(`benchmarks/no_progress.py`).
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
NO_CHANCE = 8
"""So many related failures in a row are the program's, whatever step they come after (memory that leaks, for one)."""
NO_CHANCE_ANYWHERE = 16
"""The same of failures at one place that have neither node nor rank in common."""
_OF_PROGRAMS = (FailureClass.WORKER_CRASH, FailureClass.HANG)


@dataclass(frozen=True)
class Ruling:
    """What became of it."""

    cause: Cause
    rung: Rung
    count: int
    """The how-manieth generation in a row it was that ended of this, where that is counted."""
    remedy: str = ""
    """Where the run ends."""


@dataclass(frozen=True)
class _Streak:
    """Failures in a row at one place, none of them with a new best step."""

    cause: Cause
    step: int
    """The highest that the last of them made; -1: none."""
    met: int = 1
    """How many there were."""
    related: int = 1
    """How many of the last met the same node or rank, so that it is hardly chance."""
    same: int = 1
    """How many of them ended after the same step: what is wrong comes back with the data, or with the start."""
    nodes: frozenset[str] = frozenset()
    """Where the related ones were met."""

    def followed(self, cause: Cause, step: int) -> _Streak:
        """By another one."""
        apart = not (cause.nodes & self.cause.nodes or cause.ranks & self.cause.ranks)
        if apart and (cause.nodes or self.cause.nodes):
            return _Streak(cause, step, self.met + 1, nodes=cause.nodes)
        same = self.same + 1 if step == self.step else 1
        return _Streak(cause, step, self.met + 1, self.related + 1, same, self.nodes | cause.nodes)


class Ladder:
    """See the module. `jitter`, a number between 0 and 1: many runs that wait for one thing come at other times."""

    def __init__(self, jitter: Callable[[], float] = lambda: 1.0) -> None:
        self._jitter = jitter
        self._streak: _Streak | None = None
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
                ranks = frozenset([known.rank] if known.rank is not None else [])
                cause = Cause(known.failure, known.place, known.node, nodes=nodes, ranks=ranks)
                ladder.climb(cause, known.highest_step_before, best)
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
        before = self._streak if highest_step <= best_before else None
        if not counts(cause.failure) or not cause.place:
            self._streak = None
            return Ruling(cause, _possible(POLICIES[cause.failure].rungs[0], cause), 0)
        if before is None or before.cause.place != cause.place:
            streak = _Streak(cause, highest_step, nodes=cause.nodes)
        else:
            streak = before.followed(cause, highest_step)
        cause = _seen_again(before.cause if before is not None else None, streak)
        self._streak = replace(streak, cause=cause)
        rung = _possible(_rung(streak, cause), cause)
        return Ruling(cause, rung, streak.related, _last_words(cause, streak.met) if rung is Rung.END else "")


def _rung(streak: _Streak, cause: Cause) -> Rung:
    """The next one; the end only where the same thing comes back after the same step, or no chance can do so."""
    policy = POLICIES[cause.failure]
    if cause.permanent or streak.met >= NO_CHANCE_ANYWHERE:
        return Rung.END
    rung = policy.rung(streak.related)
    if rung is Rung.END and streak.same < (policy.tries or 0) and streak.related < NO_CHANCE:
        return policy.rungs[-1]
    return rung


def _seen_again(before: Cause | None, streak: _Streak) -> Cause:
    """What repeats on another node is the program's."""
    cause = streak.cause
    known = before is not None and before.failure is FailureClass.USER_ERROR
    if streak.related > 1 and cause.failure in _OF_PROGRAMS and (len(streak.nodes) > 1 or known):
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
