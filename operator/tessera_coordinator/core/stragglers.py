"""Stragglers: nodes that hold up all others. Named as rank 0's trainer reports them; replaced where the run says so.

What must stay true: a straggler trains on unless another node stands ready in its place; it hands over at a step
boundary, with a commit, and is sent away only once it has; few are replaced, since where many are slow the reason lies
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tessera_api.journal import EventName
from tessera_api.messages import STRAGGLER
from tessera_api.training_run_status import MOST_SHOWN, ShownStraggler
from tessera_coordinator.core.effects import Announce, Effect
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.state import State

MOST_SCORE = 9999.0
"""Whatever a program says."""
MOST_SHARE = 8
"""At most one node of so many is replaced, and always one."""


class Stragglers:
    """See the module. `replaces`: whether the run wants them replaced."""

    def __init__(self, replaces: bool) -> None:
        self._replaces = replaces
        self._named: tuple[int, frozenset[str]] = (0, frozenset())
        """The generation, and whom it was told of."""
        self._replaced: set[str] = set()
        self.shown: tuple[ShownStraggler, ...] = ()

    def heard(self, membership: Membership, numbers: Mapping[str, float]) -> list[Effect]:
        """The numbers of the open generation's newest step."""
        seating = membership.seating
        if seating is None or membership.state is not State.OPEN:
            return []
        slow = ((name, value) for name, value in numbers.items() if _names_a_rank(name) and value >= 1.0)
        named = {name: min(value, MOST_SCORE) for name, value in slow}
        scores = {int(name.removeprefix(STRAGGLER)): score for name, score in named.items()}
        found = [(seating.node_of(rank), rank, score) for rank, score in scores.items() if rank < seating.ranks]
        worst = {node: (rank, score) for node, rank, score in sorted(found, key=lambda one: one[2])}
        slowest = list(worst.items())[::-1][:MOST_SHOWN]
        self.shown = tuple(
            ShownStraggler(node=node, rank=rank, score=f"{score:.2f}") for node, (rank, score) in slowest
        )
        generation = seating.opened.generation
        known = self._named[1] if self._named[0] == generation else frozenset[str]()
        self._named = (generation, known | worst.keys())
        effects: list[Effect] = [
            Announce(EventName.STRAGGLER, f"rank {rank} works {score:.2f} times as long as others", node, generation)
            for node, (rank, score) in worst.items()
            if node not in known
        ]
        if self._replaces and worst:
            self._mark(membership, max(worst, key=lambda node: worst[node][1]))
        return effects

    def over(self) -> None:
        """The generation has ended."""
        self.shown = ()

    def look(self, membership: Membership) -> list[Effect]:
        """Who has handed over is sent away."""
        if membership.state is not State.OPEN:
            return []
        done = [name for name in membership.wanted.slow if not membership.member(name)]
        return [effect for name in done for effect in membership.judge.send_away(name, WORDS, membership.roster)]

    def _mark(self, membership: Membership, node: str) -> None:
        """It is to hand over, if there is another: the next tick has all park and commit."""
        nodes = membership.roster.all()
        ready = any(one.offers and not membership.member(one.name) and one.name not in self._replaced for one in nodes)
        most = max(1, membership.wanted.count // MOST_SHARE)
        if ready and node not in self._replaced and len(self._replaced) < most:
            self._replaced.add(node)
            membership.wanted = replace(membership.wanted, slow=frozenset(self._replaced))


WORDS = "it was slower than the others, and another took its place"


def _names_a_rank(name: str) -> bool:
    return name.startswith(STRAGGLER) and name.removeprefix(STRAGGLER).isdecimal()
