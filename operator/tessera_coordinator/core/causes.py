"""The cause of a generation's end, from everything that was seen of it. Pure (design.md §2.1).

What must stay true: the first cause decides. What a failure does to others (a collective that breaks, a watchdog that
aborts) comes after it and is never the cause while there is another near it in time. Evidence may arrive after the
generation is over, until the next one is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tessera_api.failure import FailureClass
from tessera_coordinator.core.failures import Row, Sign, row_of

SECONDARY_SECONDS = 10.0
"""An abort so near to another failure is its consequence."""
MOST_EVIDENCE = 256


@dataclass(frozen=True)
class Evidence:
    """One thing that was seen. `at`: when it happened, as far as is known, in seconds of the coordinator's clock."""

    sign: Sign
    at: float
    node: str | None = None
    rank: int | None = None
    place: str = ""
    """The same for the same cause: file, line and type of an error, an exit code, a signal."""
    words: str = ""
    log: str = ""
    """The end of what the rank printed."""

    @property
    def row(self) -> Row:
        """What the table says of it."""
        return row_of(self.sign, self.place, self.words)

    @property
    def consequence(self) -> bool:
        """Whether such a thing is usually done by another failure."""
        aborted = self.sign is Sign.PROGRAM and self.place == "SIGABRT"
        return aborted or self.sign in (Sign.COLLECTIVE, Sign.QUIET)


@dataclass(frozen=True)
class Cause:
    """What a generation ended of."""

    failure: FailureClass
    place: str
    """The same for the same cause; empty where nothing can be said to come back."""
    node: str | None = None
    rank: int | None = None
    words: str = ""
    permanent: bool = False
    nodes: frozenset[str] = frozenset()
    """Where the same place was met in this generation."""
    ranks: frozenset[int] = frozenset()
    """By which ranks."""


@dataclass
class Case:
    """What was seen of one generation's end, in the order of its arrival."""

    evidence: list[Evidence] = field(default_factory=list)

    def add(self, seen: Evidence) -> None:
        """Bounded: of thousands of ranks that meet one error, the first few hundred say enough."""
        if len(self.evidence) < MOST_EVIDENCE and seen not in self.evidence:
            self.evidence.append(seen)

    def cause(self, world: int, stepped: bool) -> Cause | None:
        """`world`: the generation's world size; `stepped`: whether it completed a step. None: nothing was seen."""
        first = first_of(self.evidence)
        if first is None:
            return None
        same = [seen for seen in self.evidence if first.place and seen.place == first.place]
        row, failure = first.row, first.row.failure
        if failure is FailureClass.WORKER_CRASH and not stepped and 2 * len({seen.rank for seen in same}) >= world:
            failure = FailureClass.USER_ERROR
        nodes = frozenset(seen.node for seen in same if seen.node)
        broken = first.sign is Sign.COLLECTIVE  # who says so is not the one that broke it
        node, rank = (None, None) if broken else (first.node, first.rank)
        ranks = frozenset(seen.rank for seen in same if seen.rank is not None)
        return Cause(failure, first.place, node, rank, first.words, row.permanent, nodes, ranks)


def first_of(evidence: Iterable[Evidence]) -> Evidence | None:
    """The first cause. An abort long before anything else is one; anything else that is usually a consequence only
    where there is nothing better."""
    ordered = sorted(evidence, key=lambda seen: seen.at)
    causes = [seen for seen in ordered if not seen.consequence]
    aborts = [seen for seen in ordered if seen.place == "SIGABRT" and seen.consequence]
    if aborts and (not causes or causes[0].at - aborts[0].at > SECONDARY_SECONDS):
        return aborts[0]
    return next(iter([*causes, *ordered]), None)
