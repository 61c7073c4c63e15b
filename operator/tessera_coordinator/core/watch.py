"""Looks for lost nodes, and doubts the coordinator first. Owns what the coordinator thinks of its own ears."""

from __future__ import annotations

from dataclasses import dataclass

from tessera_api.journal import EventName
from tessera_coordinator.core.effects import Announce, Effect
from tessera_coordinator.core.nodes import Node, Roster
from tessera_coordinator.core.seating import Seating
from tessera_coordinator.core.silence import Limits, Pace, Scene, lost_members, lost_others


@dataclass(frozen=True)
class Situation:
    """What the run looks like at this moment."""

    seating: Seating | None
    """Of the open generation, if one is open."""
    pace: Pace
    since: float
    """When the present state began."""


class Watch:
    """`lost` says who is; `heard` must be called whenever anybody is heard."""

    def __init__(self, roster: Roster, limits: Limits, now: float) -> None:
        self._roster, self._limits = roster, limits
        self._last_tick = self._heard_at = now
        self._doubting = False

    def overslept(self, now: float) -> float:
        """Seconds since the last call if they are too many: the coordinator was not awake, no silence counts."""
        gap, self._last_tick = now - self._last_tick, now
        if gap <= self._limits.loop_gap:
            return 0.0
        self._roster.restart_clocks(now)
        self._heard_at = now
        return gap

    def heard(self, now: float) -> float:
        """Somebody is heard. For how many seconds nobody was, if they are too many: the fault was ours, and as the
        others' words may still be on their way, no silence counts."""
        gap = now - self._heard_at if self._roster.count() else 0.0
        self._doubting, self._heard_at = False, now
        if gap < self._limits.deaf:
            return 0.0
        self._roster.restart_clocks(now)
        return gap

    def doubts(self, now: float) -> list[Effect]:
        """Whether everybody has just fallen silent at once."""
        nodes = self._roster.all()
        silent = bool(nodes) and all(now - node.heard >= self._limits.silence for node in nodes)
        if not silent or self._doubting or any(node.reaped for node in nodes):
            return []
        self._doubting = True
        for node in nodes:
            node.return_within = self._limits.found_again_within
        message = "all nodes fell silent at once; presumed to be the coordinator's fault"
        return [Announce(EventName.SELF_DOUBT, message)]

    def lost(self, situation: Situation, now: float) -> dict[str, str]:
        """Who is lost, and why."""
        inside, nodes = situation.seating or (), self._roster.all()
        members = tuple(node for node in nodes if node.name in inside)
        others = tuple(node for node in nodes if node.name not in inside)
        scene = Scene(members, others, situation.pace, situation.since, now, self._limits)
        return lost_others(scene) | (lost_members(scene) if members else {})

    def broken_for_itself(self, members: list[Node | None], now: float) -> bool:
        """A collective error was met some time ago, and nobody was found lost nor has come back."""
        met = [node.collective_error for node in members if node is not None and node.collective_error is not None]
        return bool(met) and now - min(met) >= self._limits.collective_alone

    def pressing(self) -> bool:
        """Whether a decision is near, so that the next look should come soon."""
        return any(node.closed is not None or node.collective_error is not None for node in self._roster.all())
