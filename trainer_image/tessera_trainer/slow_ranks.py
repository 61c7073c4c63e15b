"""Which ranks are slower than the others in what they do alone. Pure.

A rank's score is the median, over the last steps, of its own time for a unit of work against the median rank's: 1.0 is
as fast as the others. What must stay true: a single slow step names nobody; neither does a world of one or two ranks,
where nobody can tell who is slow and who is fast.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

STEPS = 20
"""So many count."""
LIMIT = 1.3
"""From this score on a rank is named."""
FEWEST_RANKS = 3
MOST_NAMED = 8


class SlowRanks:
    """Of one generation."""

    def __init__(self) -> None:
        self._shares: deque[list[float]] = deque(maxlen=STEPS)

    def step(self, seconds: Sequence[float], units: Sequence[int]) -> None:
        """What each rank spent alone on its units of a step."""
        each = [spent / count if count else 0.0 for spent, count in zip(seconds, units, strict=True)]
        working = [one for one, count in zip(each, units, strict=True) if count]
        middle = median(working) if working else 0.0
        self._shares.append([one / middle if middle > 0 else 1.0 for one in each])

    def named(self) -> Mapping[int, float]:
        """The slowest ranks that are slower than the rest by more than the limit, with their scores."""
        if len(self._shares) < STEPS or len(self._shares[0]) < FEWEST_RANKS:
            return {}
        scores = {rank: median(row[rank] for row in self._shares) for rank in range(len(self._shares[0]))}
        slow = sorted((rank for rank in scores if scores[rank] >= LIMIT), key=lambda rank: -scores[rank])
        return {rank: round(scores[rank], 3) for rank in slow[:MOST_NAMED]}
