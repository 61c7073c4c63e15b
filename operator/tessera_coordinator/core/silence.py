"""When is a node lost? Pure rules over what was heard (design.md §2.1).

A completed synchronous step is proof of life of every member. A closed stream alone proves nothing, and neither does
silence while steps are completed. If everybody falls silent at once, the fault is presumed to be the coordinator's
own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from tessera_coordinator.core.nodes import Node


@dataclass(frozen=True)
class Limits:
    """Seconds, but for `mass_share`."""

    beat: float = 1.0
    missing_beats: int = 3
    return_within: float = 0.3
    found_again_within: float = 2.0
    """After a restart of the coordinator, or a time in which nobody was heard, agents need a retry to find it."""
    heard_recently: float = 1.5
    """Only who was heard within this shows that the coordinator hears."""
    deaf: float = 2.0
    """Nobody at all was heard for this long: clocks start anew with the next word."""
    collective_alone: float = 2.0
    """A collective error with nobody lost and nobody rejoining ends the generation after this."""
    mass_share: float = 0.1
    mass_patience: float = 15.0
    """Who fell silent together is lost after this, once anybody else is heard: the coordinator's ears work then."""
    loop_gap: float = 0.5
    formation: float = 5.0
    """How long a member may take to stop its workers."""
    start_patience: float = 30.0
    """The first generation waits this long for `count` nodes before it makes do with `min`."""
    arrival_patience: float = 180.0
    """The same while a node has said hello and has not offered itself yet: it imports, and proves itself."""
    grow_cooldown: float = 10.0
    grow_deadline: float = 60.0

    @property
    def silence(self) -> float:
        """Silence that counts."""
        return self.beat * self.missing_beats


@dataclass
class Pace:
    """The steps of the open generation."""

    highest: int = -1
    at: float | None = None
    """When the highest step was completed, by the coordinator's clock."""
    first_at: float | None = None
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=32))

    def completed(self, step: int, at: float) -> bool:
        """Take note of a completed step; True if it is the generation's first."""
        if step <= self.highest:
            return False
        if self.at is not None and at > self.at:
            self.durations.append((at - self.at) / (step - self.highest))
        first = self.at is None
        self.highest, self.at = step, max(at, self.at or at)
        self.first_at = self.at if first else self.first_at
        return first

    def restart_clock(self, now: float) -> None:
        """The coordinator did not hear of steps: that none was completed meanwhile is not known."""
        self.at = now if self.at is not None else None

    def median(self) -> float | None:
        """Seconds per step, once five are known."""
        return median(self.durations) if len(self.durations) >= 5 else None


@dataclass(frozen=True)
class Scene:
    """All that the rules look at."""

    members: tuple[Node, ...]
    others: tuple[Node, ...]
    pace: Pace
    opened: float
    now: float
    limits: Limits

    @cached_property
    def witnesses(self) -> list[Node]:
        """Who shows that the coordinator hears. Beats are not in step: of nodes that are silent for one common cause,
        the last has been silent for up to one beat less than the first."""
        return [node for node in (*self.members, *self.others) if self.hears(node)]

    @cached_property
    def stopped(self) -> list[Node]:
        """Members that are heard, and by whose last beat the last step was too long ago: who has not spoken since is
        no witness, and a node outside the generation can't know."""
        pause, at = self.pace.median(), self.pace.at
        if pause is None or at is None:
            return []
        members = (node for node in self.members if self.hears(node) and node.told is not None)
        return [node for node in members if node.told is not None and node.told - at > 2 * pause]

    @cached_property
    def broken(self) -> list[Node]:
        """Members that met a collective error."""
        return [node for node in self.members if node.collective_error is not None]

    def hears(self, node: Node) -> bool:
        """Whether a node is heard now."""
        return node.connected and self.now - node.heard <= self.limits.heard_recently


def lost_members(scene: Scene) -> dict[str, str]:
    """Which members are lost, and why."""
    lost = {node.name: why for node in scene.members if (why := _cut_off(node, scene))}
    silent = [node for node in scene.members if node.name not in lost and _silent(node, scene)]
    if silent and not _presumed_ours(silent, scene):
        lost |= {
            node.name: f"no beat for {scene.now - node.heard:.1f} s and no step completed since" for node in silent
        }
    return lost


def lost_others(scene: Scene) -> dict[str, str]:
    """Which nodes outside the generation are lost: nobody waits for them, so less evidence is needed."""
    lost: dict[str, str] = {}
    for node in scene.others:
        if node.closed is not None and (node.reaped or scene.now - node.closed >= node.return_within):
            lost[node.name] = "its process has ended" if node.reaped else "its stream closed and did not return"
        elif scene.now - node.heard >= scene.limits.silence and scene.witnesses:
            lost[node.name] = f"no beat for {scene.now - node.heard:.1f} s"
    return lost


def _cut_off(node: Node, scene: Scene) -> str | None:
    """The stream closed, did not return, and somebody else has noticed too."""
    closed = node.closed
    if closed is None or scene.now - closed < node.return_within:
        return None
    if node.reaped:
        return "its process has ended"
    if any(
        peer is not node and (peer.collective_error or 0.0) >= closed - scene.limits.silence for peer in scene.broken
    ):
        return "its stream closed and a peer met a collective error"
    if any(peer is not node and peer.told is not None and peer.told > closed for peer in scene.stopped):
        return "its stream closed and no step was completed since"
    return None


def _silent(node: Node, scene: Scene) -> bool:
    silence = scene.limits.silence
    if scene.now - node.heard < silence:
        return False
    alive = max(node.heard, scene.pace.at or scene.opened)
    return scene.now - min(alive, scene.now) >= silence


def _presumed_ours(silent: list[Node], scene: Scene) -> bool:
    """All members, or more than max(2, 10 %), silent since one and the same beat: then only a heard agent's word
    counts, and after `mass_patience` that anybody is heard at all. Without anybody who is heard, never."""
    limits = scene.limits
    if not scene.witnesses:
        return True
    many = len(silent) == len(scene.members) or len(silent) > max(2, limits.mass_share * len(scene.members))
    last = [node.heard for node in silent]
    if not many or max(last) - min(last) > limits.beat:
        return False
    if scene.now - max(last) >= limits.mass_patience:
        return False
    return not scene.stopped and not any(node.collective_error is not None for node in scene.witnesses)
