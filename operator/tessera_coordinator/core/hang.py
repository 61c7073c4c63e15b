"""Hangs: nodes beat, and nobody computes anything. Pure (design.md §2.1).

Progress is counted in micro-batches, so that a long step is none; what takes its time by nature (start-up with its
compilation, checkpoint, evaluation, export) is declared and has a limit of its own, and so has a wait for data, which
is found by asking. What must stay true: only time in which every member has said that it came no further counts, and
none in which the coordinator was not awake; before a generation is ended for a hang, every node is asked what its
trainers are doing, which it answers with a beat and their stacks, and one that has moved by then saves it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tessera_api.inspection import Collective, Inspect, Inspected, RankSeen
from tessera_api.log import Open
from tessera_api.messages import Beat, Phase
from tessera_coordinator.core.effects import Effect, Send
from tessera_coordinator.core.nodes import Node, Roster
from tessera_coordinator.core.silence import Pace

MOST_STACKS = 8


@dataclass(frozen=True)
class HangLimits:
    """Seconds, but for `steps`."""

    floor: float = 60.0
    """Of training; `spec.hangSeconds`."""
    steps: float = 5.0
    """Of training: so many times the median step, if that is longer."""
    start: float = 1800.0
    """Until five steps are known: weights are read and code is compiled. Once an earlier generation has made as many,
    until the first step."""
    early: float = 2.0
    """Of training, until five steps of a later generation are known: so many times the slowest step of an earlier one,
    if that is longer."""
    declared: float = 18_000.0
    """In a checkpoint that is waited for, an evaluation, an export: longer than a trainer waits for a storage that is
    out before it gives up by itself."""
    reading: float = 1800.0
    """In a wait for data that is not declared: a store that does not answer is given up long before."""
    evidence: float = 3.0
    """So long the nodes may take to say what their trainers are doing."""


@dataclass(frozen=True)
class Hang:
    """Nobody has come any further for too long."""

    words: str
    place: str
    """The same for the same cause, as far as can be seen."""
    node: str | None
    """Where a rank differs from the others."""
    rank: int | None = None
    stacks: str = ""
    """What ranks said that they were doing, those that differ first, and the ends of their logs."""


class Hangs:
    """Of the open generation."""

    def __init__(self, limits: HangLimits) -> None:
        self._limits = limits
        self._usual: float | None = None
        """What training was given in an earlier generation, once its steps were known."""
        self.begun(0.0)

    def begun(self, now: float, after: Pace | None = None) -> None:
        """A generation is open. What the steps of the one before took says what its own may take."""
        if after is not None and (median := after.median()) is not None:
            slowest = self._limits.early * max(after.durations)
            self._usual = max(self._limits.floor, self._limits.steps * median, slowest)
        self._at = now
        """When somebody was last heard to have come further."""
        self._known: dict[str, tuple[int, int]] = {}
        self._asked: float | None = None
        self._excused = now
        """When it was last found that somebody waits for data."""
        self._questioned: tuple[int, frozenset[str]] = (0, frozenset())
        """The generation and the nodes whose answers count."""
        self._seen: dict[str, tuple[RankSeen, ...]] = {}

    def restart_clock(self, now: float) -> None:
        """The coordinator was not awake, or deaf: what was computed meanwhile is not known."""
        self._at, self._asked = now, None

    def beat(self, node: str, beat: Beat, now: float) -> None:
        """A member says how far it is in the open generation."""
        step, units = self._known.get(node, (-1, 0))
        if beat.step > step or beat.units > units:
            at = now if beat.units > units or beat.step_age is None else now - beat.step_age
            self._at, self._asked = max(self._at, at), None
        self._known[node] = (max(step, beat.step), max(units, beat.units))

    def inspected(self, node: str, said: Inspected) -> None:
        """A node's answer; one that was not asked, or speaks of another generation, is not heard."""
        generation, nodes = self._questioned
        if said.generation == generation and node in nodes:
            self._seen[node] = said.ranks

    def look(self, generation: Open, roster: Roster, pace: Pace, now: float) -> tuple[list[Effect], Hang | None]:
        """Whether nobody moves: then the nodes are asked first, and what they said makes the verdict."""
        since = max(self._at, pace.at or self._at)
        if now - since < min(self._limits.floor, self._limits.start, self._limits.declared):
            return [], None
        members = [node for name in generation.names() if (node := roster.get(name)) is not None]
        limit = self._limit(members, pace)
        everybody = len(members) == len(generation.members)
        if limit is None or not everybody:
            return [], None
        due = max(since + limit, self._excused + self._limits.floor)
        if now < due or not all(node.connected and node.told is not None for node in members):
            return [], None
        if self._asked is None or self._asked < since:
            self._asked, self._seen = now, {}
            self._questioned = (generation.generation, frozenset(node.name for node in members))
            return [Send(node.name, Inspect(generation=generation.generation)) for node in members], None
        if not all(_says_so(node, self._asked) for node in members):
            return [], None
        if len(self._seen) < len(members) and now - self._asked < self._limits.evidence:
            return [], None
        reading = any(rank.reading for said in self._seen.values() for rank in said)
        if reading and now - since < self._limits.reading:
            self._excused, self._asked = now, None
            return [], None
        return [], _verdict(now - since, members, self._seen)

    def _limit(self, members: list[Node], pace: Pace) -> float | None:
        phases = {node.phase for node in members}
        if Phase.PARKED in phases:
            return None  # an order to park has a deadline of its own
        if not any(node.facts is not None and node.facts.worker_pids for node in members):
            return None  # a program that says nothing of itself cannot be found standing still
        if phases - {Phase.START, Phase.TRAIN}:
            return self._limits.declared
        if (median := pace.median()) is not None:
            return max(self._limits.floor, self._limits.steps * median)
        return self._limits.start if self._usual is None or pace.at is None else self._usual


def _says_so(node: Node, asked: float) -> bool:
    """It has spoken of this generation since it was asked, which is later than it should have come further."""
    return node.connected and node.told is not None and node.told >= asked


def _verdict(seconds: float, members: list[Node], seen: dict[str, tuple[RankSeen, ...]]) -> Hang:
    phase = max(members, key=lambda node: list(Phase).index(node.phase)).phase
    words = f"hang: nothing was computed for {seconds:.0f} s in phase {phase.value}"
    ranks = sorted(((rank, name) for name, said in seen.items() for rank in said), key=lambda one: one[0].rank)
    differ = _different(ranks)
    if not differ:
        place = f"hang in phase {phase.value}"
        return Hang(f"{words}; no rank differs from the others", place, None, stacks=_stacks(ranks))
    first, node = differ[0]
    said = "; ".join(
        f"rank {rank.rank} on {name} is {rank.state}{_place(rank)}{_inside(rank)}" for rank, name in differ[:4]
    )
    more = f", and {len(differ) - 4} more" if len(differ) > 4 else ""
    others = [one for one in ranks if one not in differ]
    where = next((one.waits_in.words() for one, _ in others if one.waits_in is not None), "")
    told = f"{words}: {said}{more}, while others wait{f' in {where}' if where else ''}"[:2000]
    return Hang(told, f"hang{_place(first)}", node, first.rank, _stacks([*differ, *others]))


def _stacks(ranks: list[tuple[RankSeen, str]]) -> str:
    told = [
        f"rank {rank.rank} on {name}, {rank.state}{_place(rank)}{_inside(rank)}\n{rank.stack}\n{rank.log}"
        for rank, name in ranks
    ]
    return "\n".join(told[:MOST_STACKS])


def _different(ranks: list[tuple[RankSeen, str]]) -> list[tuple[RankSeen, str]]:
    """Whom the others wait for: who waits for nobody, while others do; else whose process is stopped or gone."""
    if len(ranks) == 1:
        return ranks
    outside = [one for one in ranks if not one[0].collective]
    if 0 < len(outside) < len(ranks):
        return outside
    odd = [one for one in ranks if one[0].state in ("stopped", "gone")]
    if odd:
        return odd if len(odd) < len(ranks) else []
    return _behind(ranks)


def _behind(ranks: list[tuple[RankSeen, str]]) -> list[tuple[RankSeen, str]]:
    """All wait: who waits in an earlier collective of a group than others of it do, or, where all are at the same one,
    who called another operation than most."""
    groups: dict[str, list[tuple[RankSeen, str, Collective]]] = {}
    for rank, name in ranks:
        if rank.waits_in is not None:
            groups.setdefault(rank.waits_in.group, []).append((rank, name, rank.waits_in))
    for waiting in groups.values():
        first = min(collective.number for _, _, collective in waiting)
        called = Counter(collective.operation for _, _, collective in waiting)
        usual, times = called.most_common(1)[0]
        odd = [(rank, name) for rank, name, collective in waiting if collective.number == first]
        if len(odd) == len(waiting):
            odd = [(rank, name) for rank, name, collective in waiting if collective.operation != usual]
            odd = odd if times > len(odd) else []
        if odd:
            return odd
    return []


def _inside(rank: RankSeen) -> str:
    return f", in {rank.waits_in.words()}" if rank.waits_in is not None else ""


def _place(rank: RankSeen) -> str:
    return f" at {rank.at}" if rank.at else ""
