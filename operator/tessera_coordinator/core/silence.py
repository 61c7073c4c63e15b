"""When is a node lost? Pure rules over what was heard (design.md §2.1).

A completed synchronous step is proof of life of every member. A closed stream alone proves nothing, and neither does
silence while steps are completed. If everybody falls silent at once, the fault is presumed to be the coordinator's
own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
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


def lost_members(scene: Scene, limits: Limits) -> dict[str, str]:
    """Which members are lost, and why."""
    lost = {node.name: why for node in scene.members if (why := _cut_off(node, scene, limits))}
    silent = [node for node in scene.members if node.name not in lost and _silent(node, scene, limits)]
    if silent and not _presumed_ours(silent, scene, limits):
        lost |= {
            node.name: f"no beat for {scene.now - node.heard:.1f} s and no step completed since" for node in silent
        }
    return lost


def lost_others(scene: Scene, limits: Limits) -> dict[str, str]:
    """Which nodes outside the generation are lost: nobody waits for them, so less evidence is needed."""
    lost: dict[str, str] = {}
    quiet = [node for node in scene.others if scene.now - node.heard >= limits.silence]
    for node in scene.others:
        if node.closed is not None and (node.reaped or scene.now - node.closed >= node.return_within):
            lost[node.name] = "its process has ended" if node.reaped else "its stream closed and did not return"
        elif node in quiet and _witnesses(scene, limits):
            lost[node.name] = f"no beat for {scene.now - node.heard:.1f} s"
    return lost


def _cut_off(node: Node, scene: Scene, limits: Limits) -> str | None:
    """The stream closed, did not return, and somebody else has noticed too."""
    if node.closed is None or scene.now - node.closed < node.return_within:
        return None
    if node.reaped:
        return "its process has ended"
    if any(_reported_after(peer, node.closed, limits) for peer in scene.members if peer is not node):
        return "its stream closed and a peer met a collective error"
    peers = [peer for peer in scene.members if peer is not node and _heard(peer, scene, limits)]
    if any(_stopped(peer, scene) and peer.told is not None and peer.told > node.closed for peer in peers):
        return "its stream closed and no step was completed since"
    return None


def _reported_after(peer: Node, closed: float, limits: Limits) -> bool:
    return peer.collective_error is not None and peer.collective_error >= closed - limits.silence


def _heard(node: Node, scene: Scene, limits: Limits) -> bool:
    return node.connected and scene.now - node.heard <= limits.heard_recently


def _silent(node: Node, scene: Scene, limits: Limits) -> bool:
    alive = max(node.heard, scene.pace.at or scene.opened)
    return scene.now - node.heard >= limits.silence and scene.now - min(alive, scene.now) >= limits.silence


def _presumed_ours(silent: list[Node], scene: Scene, limits: Limits) -> bool:
    """All members, or more than max(2, 10 %), silent since one and the same beat: then only a heard agent's word
    counts, and after `mass_patience` that anybody is heard at all. Without anybody who is heard, never."""
    witnesses = _witnesses(scene, limits)
    if not witnesses:
        return True
    many = len(silent) == len(scene.members) or len(silent) > max(2, limits.mass_share * len(scene.members))
    last = [node.heard for node in silent]
    if not many or max(last) - min(last) > limits.beat:
        return False
    if scene.now - max(last) >= limits.mass_patience:
        return False
    return not any(node.collective_error is not None or _stopped(node, scene) for node in witnesses)


def _stopped(node: Node, scene: Scene) -> bool:
    """A heard member said that the last step was too long ago, by its last beat: who has not spoken since is no
    witness, and a node outside the generation can't know."""
    pause, at = scene.pace.median(), scene.pace.at
    inside = any(node is member for member in scene.members)
    return inside and pause is not None and at is not None and node.told is not None and node.told - at > 2 * pause


def _witnesses(scene: Scene, limits: Limits) -> list[Node]:
    """Who shows that the coordinator hears. Beats are not in step: of nodes that are silent for one common cause, the
    last has been silent for up to one beat less than the first."""
    return [node for node in (*scene.members, *scene.others) if _heard(node, scene, limits)]
