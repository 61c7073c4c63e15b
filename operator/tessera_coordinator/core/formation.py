"""Who makes up the next generation, and whether it can be opened now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tessera_api.log import KeeperAddress, Member, Open, StoreAddress
from tessera_api.orders import Places, Size
from tessera_coordinator.core.effects import OpenGeneration
from tessera_coordinator.core.kept import Held
from tessera_coordinator.core.nodes import Node
from tessera_coordinator.core.silence import Limits


@dataclass(frozen=True)
class Wanted:
    """Nodes of a generation: as many as `count`, at least `min`; whoever is left over is a spare."""

    count: int
    min: int
    first_generation: int = 1
    """The next number if no generation is known."""
    fingerprint: str = ""
    """Of the numerics that the run began with, empty if it has not begun."""
    leaving: frozenset[str] = frozenset()
    """Nodes that are to train no more, if the others are enough."""
    ending: frozenset[str] = frozenset()
    """Nodes that have said that they are about to end: whatever size a controller wants, they are to train no more."""
    warned: frozenset[str] = frozenset()
    """Nodes of which a controller says that they are about to end, or have sick devices: the same."""
    slow: frozenset[str] = frozenset()
    """Stragglers for which there is another node: the same."""
    ordered: bool = False
    """Whether ranks are ordered by where their nodes are, which a controller will say."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where each node is, by name: a rack, for example."""

    def placed(self, said: Places) -> Wanted:
        """A controller has said where the nodes are."""
        return replace(self, places={place.node: place.at for place in said.places})

    def resized(self, size: Size) -> Wanted:
        """A controller wants another number of nodes."""
        return replace(self, count=size.count, min=size.min, leaving=frozenset(size.leaving))

    def words(self) -> str:
        """For people."""
        leaving = ", ".join(sorted(self.leaving)) or "none"
        return f"{self.count} nodes wanted, at least {self.min}; to leave: {leaving}"[:2000]

    def chosen(self, names: list[str]) -> list[str]:
        """Who is to train of these, the first `count`: who leaves is needed only where the others are fewer than
        `min`."""
        going = self.leaving | self.ending | self.warned | self.slow
        staying = [name for name in names if name not in going]
        return (staying if len(staying) >= self.min else names)[: self.count]


@dataclass(frozen=True)
class Plan:
    """What came of it."""

    opening: OpenGeneration | None
    refused: dict[str, str] = field(default_factory=dict)
    """Nodes that may not take part, with the reason."""


def draft(nodes: list[Node], last: Open | None, wanted: Wanted, limits: Limits, waited: float) -> Plan:
    """The next generation from the nodes that offer themselves.

    Old members keep their order (ranks stay stable), spares follow in order of arrival; where places count, the first
    generation waits until they are known, `limits.arrival_patience` seconds at most. A living old member that
    still stops its workers is waited for, `limits.formation` seconds at most; the first generation waits for `count`
    nodes: `limits.start_patience` seconds at most, longer for nodes that are there and still prove themselves.
    """
    fingerprint = (last.fingerprint if last and last.fingerprint else "") or wanted.fingerprint
    offers = [node for node in nodes if node.offers]
    fingerprint = fingerprint or next((node.join.fingerprint for node in offers if node.join), "")
    fit = [node for node in offers if node.join and node.join.fingerprint == fingerprint]
    refused = {
        node.name: f"its numerics ({node.join.fingerprint}) are not the run's ({fingerprint}): refused by exact mode"
        for node in offers
        if node.join and node.join.fingerprint != fingerprint
    }
    before = list(last.names()) if last else []
    previous = set(before)
    pending = [node for node in nodes if node.name in previous and node.join is None]
    enough = wanted.count if not before else wanted.min
    if pending and waited < limits.formation:
        return Plan(None, refused)
    coming = any(node.connected and node.join is None for node in nodes)
    patience = limits.arrival_patience if coming else limits.start_patience
    if len(fit) < enough and (before or len(fit) < wanted.min or waited < patience):
        return Plan(None, refused)
    if len(fit) < wanted.min:
        return Plan(None, refused)
    unplaced = wanted.ordered and any(node.name not in wanted.places for node in fit)
    if unplaced and not before and waited < limits.arrival_patience:
        return Plan(None, refused)
    chosen = _in_order(fit, before, wanted)
    members = _members(chosen)
    join = chosen[0].join
    assert join is not None
    store = StoreAddress(host=chosen[0].host, port=join.store_port)
    number = last.generation + 1 if last else wanted.first_generation
    reason = "first" if not before else f"after generation {number - 1}"
    return Plan(OpenGeneration(number, members, store, fingerprint, reason, _held(chosen)), refused)


def _members(chosen: list[Node]) -> tuple[Member, ...]:
    """With the addresses of their keepers, where all have one: an older version's agent would not know the entry."""
    ports = [node.join.keeper_port for node in chosen if node.join is not None]
    all_have = None not in ports
    return tuple(
        Member(
            node=node.name,
            incarnation=node.incarnation,
            processes=node.processes,
            keeper=KeeperAddress(host=node.host, port=port) if port is not None and all_have else None,
        )
        for node, port in zip(chosen, ports, strict=True)
    )


def _held(chosen: list[Node]) -> tuple[Held, ...]:
    joins = [(node.name, node.join) for node in chosen if node.join is not None]
    if any(join.keeper_port is None for _, join in joins):
        return ()
    return tuple(Held(name, part) for name, join in joins for part in join.kept or ())


def _in_order(fit: list[Node], before: list[str], wanted: Wanted) -> list[Node]:
    """Who trains: as before, then in order of arrival; then brought together by place, so that neighbours in rank are
    near each other (rings and trees of collectives cross from place to place as seldom as can be)."""
    ranks = {name: rank for rank, name in enumerate(before)}
    fit.sort(key=lambda node: (ranks.get(node.name, len(before)), node.arrival))
    names = set(wanted.chosen([node.name for node in fit]))
    chosen = [node for node in fit if node.name in names]
    places = dict.fromkeys(wanted.places.get(node.name, "") for node in chosen if node.name in ranks)
    known = {at: number for number, at in enumerate(places)}

    def place(node: Node) -> tuple[int, str]:
        at = wanted.places.get(node.name, "")
        return known.get(at, len(known)), at

    return sorted(chosen, key=place)


def change(nodes: list[Node], generation: Open, wanted: Wanted) -> str:
    """How the open generation is to change, in words; empty when it is as it should be.

    As many nodes are wanted as stand ready and have its numerics; who is to leave makes room for others.
    """
    inside = generation.names()
    members = set(inside)
    ready = [
        node.name
        for node in nodes
        if node.join is not None
        and node.offers
        and node.name not in members
        and node.join.fingerprint == (generation.fingerprint or wanted.fingerprint or node.join.fingerprint)
    ]
    after = wanted.chosen([*inside, *ready])
    staying = set(after)
    gone = [name for name in inside if name not in staying]
    if len(after) > len(inside):
        return f"growth by {len(after) - len(inside)}"
    return f"to go on without {', '.join(gone)}" if gone else ""
