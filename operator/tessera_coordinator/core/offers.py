"""Does a node's offer, or what it holds, belong to the open generation? Pure."""

from __future__ import annotations

from tessera_api.log import Member, Open
from tessera_api.messages import Holding, Join
from tessera_coordinator.core.nodes import Node
from tessera_coordinator.core.seating import Seating


def holds(held: Holding, seating: Seating) -> bool:
    """Whether what an agent says it runs is this generation, to the byte."""
    return held.generation == seating.opened.generation and held.digest == seating.digest


def answered(node: Node, join: Join, generation: Open) -> bool:
    """Whether the generation was made from this very offer, and only its delivery got lost."""
    if node.assigned:
        return join.sequence == node.assigned
    left = join.left.generation if join.left else 0
    return left < generation.generation and _serves(node.name, join, generation)


def stands(node: Node | None, member: Member, generation: Open) -> bool:
    """Whether the offer that made `member` part of the generation still stands."""
    if node is None or node.incarnation != member.incarnation or node.join is None:
        return False
    return _serves(node.name, node.join, generation)


def _serves(name: str, join: Join, generation: Open) -> bool:
    """The first node hosts the generation's TCPStore, on the port of its offer."""
    return generation.members[0].node != name or join.store_port == generation.store.port
