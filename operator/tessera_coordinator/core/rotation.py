"""Which of a run's keys count, while newer ones come. Pure.

Keys reach the nodes one by one, through each one's kubelet: an older key is good for `GRACE_SECONDS` after a newer one
was seen. What must stay true: a member of the generation that trains is never shut out because its new key is late.
"""

from __future__ import annotations

from collections.abc import Iterable

GRACE_SECONDS = 3600.0
MOVE_SECONDS = 60.0
"""So often who speaks under an older key is made to begin anew: it comes with the newest that it has."""


class Rotation:
    """See the module."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        """When each number was first seen."""
        self._moved = 0.0

    def sees(self, numbers: Iterable[int], now: float) -> None:
        """These keys are there."""
        for number in numbers:
            self._since.setdefault(number, now)

    def older(self, number: int) -> bool:
        """Whether a newer key is there."""
        return number < max(self._since, default=number)

    def outdated(self, number: int, now: float) -> bool:
        """Whether the key is good for nothing any more."""
        newer = [since for other, since in self._since.items() if other > number]
        return bool(newer) and now - min(newer) > GRACE_SECONDS

    def move_due(self, now: float) -> bool:
        """Whether it is time that streams under older keys begin anew."""
        if len(self._since) < 2 or now - max(self._moved, self._since[max(self._since)]) < MOVE_SECONDS:
            return False
        self._moved = now
        return True
