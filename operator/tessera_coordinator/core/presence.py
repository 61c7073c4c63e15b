"""Who is there, and since when that has not been counted: so that every second of every node is counted once, whatever
happens between two looks. Pure; times are one monotonic clock's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from tessera_coordinator.core.ledger import Activity
from tessera_coordinator.core.nodes import Node

MOST_KNOWN = 10_000


class Presence:
    """What must stay true: the seconds handed out for a node between its `came` and its `gone` are those that passed,
    no more and no less; a node that was given up and comes back has them counted from when it was given up."""

    def __init__(self, now: float, away: float | None = None) -> None:
        self._at = now
        """Until when all are counted, but for those in `_since`."""
        self._known_from = now - away if away is not None else None
        """Until when the coordinator before this one has counted; None: there was none in this start."""
        self._since: dict[str, float] = {}
        self._given_up: dict[tuple[str, str], float] = {}

    def came(self, node: Node, now: float) -> tuple[float, bool]:
        """A node is counted from now on. Returns the seconds before now that nobody has counted, and whether it was
        part of the run then (else it was starting)."""
        self._since[node.name] = now
        gone = self._given_up.pop((node.name, node.incarnation), None)
        if gone is not None:
            return min(node.lived, now - gone), True
        if self._known_from is not None and node.known > now - self._known_from:
            return now - self._known_from, True
        return node.lived, False

    def gone(self, node: Node, now: float) -> float:
        """It is not counted any more. Returns its last seconds."""
        self._given_up[(node.name, node.incarnation)] = now
        if len(self._given_up) > MOST_KNOWN:
            del self._given_up[next(iter(self._given_up))]
        return max(0.0, now - max(self._at, self._since.pop(node.name, self._at)))

    def passed(
        self, now: float, doing: Iterable[tuple[int, Activity]], of: Callable[[str], Activity]
    ) -> Mapping[Activity, float]:
        """Node-seconds since the last look: how many nodes are doing what, and what one of a name does."""
        seconds: dict[Activity, float] = defaultdict(float)
        for count, activity in doing:
            seconds[activity] += count * max(0.0, now - self._at)
        for name, since in self._since.items():  # these came since the last look
            seconds[of(name)] -= max(0.0, min(now, since) - self._at)
        self._at = max(self._at, now)
        self._since.clear()
        return seconds
