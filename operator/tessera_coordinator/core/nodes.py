"""What the coordinator knows about each node. Times are seconds of its own clock in which it was awake."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from tessera_api.log import Open
from tessera_api.messages import Hello, Join, Phase, Processes

CROWD = 64
"""Nodes."""


@dataclass
class Node:
    """One node, as last heard of."""

    name: str
    incarnation: str
    host: str
    processes: int
    arrival: int
    """Order of first appearance: decides who takes a free place."""
    heard: float
    """When its last frame arrived."""
    told: float | None = None
    """When it last said, in a beat, how far the open generation is: between two beats nothing is known of its steps."""
    closed: float | None = None
    """Since when it has had no stream."""
    return_within: float = 0.3
    """How long a missing stream is waited for."""
    join: Join | None = None
    """Its standing offer; None while it runs or stops workers."""
    assigned: int = 0
    """The join sequence that its present generation answered; 0: not known (a restarted coordinator)."""
    collective_error: float | None = None
    """When it reported a collective error in the open generation."""
    reaped: bool = False
    """Its supervisor has seen its process end."""
    finished: int = 0
    """The generation whose work it has finished."""
    phase: Phase = Phase.START
    lived: float = 0.0
    """Seconds since its agent began, when it was first heard,"""
    known: float = 0.0
    """and since any coordinator first welcomed it."""
    facts: Processes | None = None
    """As of its last beat or offer; None: not heard since this coordinator began."""

    def spoke(self, hello: Hello, return_within: float, now: float) -> None:
        """It opened a stream."""
        self.host, self.processes = hello.host, hello.processes
        self.heard, self.closed, self.return_within = now, None, return_within

    @property
    def connected(self) -> bool:
        """Whether it has a stream."""
        return self.closed is None

    @property
    def offers(self) -> bool:
        """Whether it waits for a generation."""
        return self.join is not None and self.connected


class Roster:
    """The nodes that are there, by name."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self.came: Callable[[Node], None] = lambda node: None
        """Called with each node that is counted from now on,"""
        self.goes: Callable[[Node], None] = lambda node: None
        """and with each that will not be counted any more."""
        self._arrivals = 0

    def get(self, name: str) -> Node | None:
        """The node of that name, if it is counted."""
        return self._nodes.get(name)

    def all(self) -> list[Node]:
        """Every node, in order of arrival."""
        return list(self._nodes.values())

    @property
    def crowded(self) -> bool:
        """So many that not each word of one can be followed by a look at all: the next tick does that."""
        return len(self._nodes) > CROWD

    def count(self) -> int:
        """How many there are."""
        return len(self._nodes)

    def count_of(self, names: Set[str]) -> int:
        """How many of these there are."""
        return len(self._nodes.keys() & names)

    def add(self, name: str, incarnation: str, hello: Hello | None, now: float) -> Node:
        """A new node takes the name."""
        self._arrivals += 1
        host, processes = (hello.host, hello.processes) if hello else ("", 1)
        node = Node(name, incarnation, host, processes, self._arrivals, now)
        node.lived, node.known = (hello.lived, hello.known) if hello else (0.0, 0.0)
        self._nodes.pop(name, None)  # a newcomer is the last in order
        self._nodes[name] = node
        self.came(node)
        return node

    def adopt(self, generation: Open, return_within: float, now: float) -> None:
        """The members of a generation of which a restarted coordinator has heard nothing yet."""
        for member in generation.members:
            node = self.add(member.node, member.incarnation, None, now)
            node.processes, node.closed, node.return_within = member.processes, now, return_within

    def drop(self, name: str) -> None:
        """The node is no longer counted."""
        if name in self._nodes:
            self.goes(self._nodes[name])
            del self._nodes[name]

    def restart_clocks(self, now: float) -> None:
        """The coordinator was not awake: no silence counts."""
        for node in self._nodes.values():
            node.heard = now
            node.closed = now if node.closed is not None else None
