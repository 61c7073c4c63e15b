"""The time axis that all panels of a report share. Pure; times are Unix seconds, positions are pixels.

Long stretches in which nothing happened (a run that was stopped and resumed next day) are cut to a narrow gap, and
say so.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MOST_CUTS = 50
_LEAST_CUT = 120.0
_CUT_SHARE = 0.15
"""A pause is cut when it is longer than two minutes and than this share of the time without it."""
_GAP_PIXELS = 14.0
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800)
_TICKS = 9


@dataclass(frozen=True)
class Cut:
    """A stretch of time that is not drawn to scale."""

    first: float
    last: float


class TimeAxis:
    """Positions between `left` and `right` for the times between the first and the last moment."""

    def __init__(self, moments: Sequence[float], left: float, right: float) -> None:
        ordered = sorted(moments) or [0.0]
        self.first, self.last = ordered[0], max(ordered[-1], ordered[0] + 1.0)
        self.cuts = _cuts(ordered)
        self._left = left
        drawn = (self.last - self.first) - sum(cut.last - cut.first for cut in self.cuts)
        self._scale = (right - left - _GAP_PIXELS * len(self.cuts)) / max(drawn, 1e-9)
        self._starts = [cut.first for cut in self.cuts]

    def x(self, time: float) -> float:
        """The position of a moment; moments outside stand at the edges."""
        time = min(self.last, max(self.first, time))
        before = bisect.bisect_right(self._starts, time)
        skipped = 0.0
        gaps = _GAP_PIXELS * before
        for cut in self.cuts[:before]:
            skipped += min(cut.last, time) - cut.first
            if time < cut.last:
                gaps -= _GAP_PIXELS * (cut.last - time) / (cut.last - cut.first)
        return self._left + (time - self.first - skipped) * self._scale + gaps

    def ticks(self) -> list[tuple[float, float]]:
        """(position, seconds of drawn time since the beginning) at round distances."""
        drawn = (self.last - self.first) - sum(cut.last - cut.first for cut in self.cuts)
        step = next((step for step in _STEPS if drawn / step <= _TICKS), _STEPS[-1])
        found: list[tuple[float, float]] = []
        elapsed = 0.0
        while elapsed <= drawn and len(found) <= 100:
            found.append((self.x(self._moment(elapsed)), elapsed))
            elapsed += step
        return found

    def _moment(self, elapsed: float) -> float:
        """When so much drawn time had passed."""
        time = self.first + elapsed
        for cut in self.cuts:
            if time > cut.first:
                time += cut.last - cut.first
        return time


def _cuts(ordered: Sequence[float]) -> tuple[Cut, ...]:
    pauses = [Cut(a, b) for a, b in pairwise(ordered) if b - a > _LEAST_CUT]
    drawn = ordered[-1] - ordered[0] - sum(cut.last - cut.first for cut in pauses)
    longest = sorted(pauses, key=lambda cut: cut.first - cut.last)[:MOST_CUTS]
    cuts = [cut for cut in longest if cut.last - cut.first > max(_LEAST_CUT, _CUT_SHARE * drawn)]
    return tuple(sorted(cuts, key=lambda cut: cut.first))
