"""Attendance: which living nodes the coordinator once counted and counts no more. Pure; for whoever replaces nodes."""

from __future__ import annotations


class Attendance:
    """Which living nodes the coordinator once counted and counts no more. Fed with its answers."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: set[str] = set()
        self._missing: dict[str, float] = {}

    def interrupted(self) -> None:
        """The coordinator was away: nodes need time to return to it."""
        self._missing.clear()

    def answered(self, present: frozenset[str], alive: frozenset[str], now: float) -> list[str]:
        """The nodes that live and have been missing for `patience` seconds of answers."""
        self._seen |= present
        gone = (self._seen & alive) - present
        self._missing = {name: self._missing.get(name, now) for name in gone}
        return sorted(name for name, since in self._missing.items() if now - since >= self._patience)
