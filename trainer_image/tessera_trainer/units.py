"""Units: how the fixed micro-batches of a step are shared out to ranks, and the one tree in which they are summed.

A global batch is `units` micro-batches, numbered from 0. What must stay true: the tree depends on `units` alone, so a
sum that follows it has the same bits at every world size (design.md §2.7). A rank runs a contiguous span of units; the
span is the disjoint union of a few maximal nodes of the tree (its cover), whose sums the rank forms by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Node(NamedTuple):
    """The units [first, last) as one node of the tree; last > first."""

    first: int
    last: int

    def children(self) -> tuple[Node, Node]:
        """The two halves, cut at the largest power of two below the size; the node must hold two units at least."""
        size = self.last - self.first
        middle = self.first + (1 << ((size - 1).bit_length() - 1))
        return Node(self.first, middle), Node(middle, self.last)


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """`units` micro-batches on `world_size` ranks. Raises ValueError where a rank would have none."""

    units: int
    world_size: int

    def __post_init__(self) -> None:
        if not 1 <= self.world_size <= self.units:
            raise ValueError(
                f"{self.units} units cannot be shared out to {self.world_size} ranks: each needs at least one"
            )

    @property
    def root(self) -> Node:
        """The whole global batch."""
        return Node(0, self.units)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many units each rank runs."""
        return tuple(len(self.of(rank)) for rank in range(self.world_size))

    @property
    def steps(self) -> int:
        """Micro-steps of the busiest rank."""
        return -(-self.units // self.world_size)

    @property
    def busy_share(self) -> float:
        """The share of rank time that works on a unit: units / (W ceil(units / W))."""
        return self.units / (self.world_size * self.steps)

    @property
    def aligned(self) -> bool:
        """Whether each rank's units are one whole subtree: then the exchange costs the bytes of a ring."""
        return self.rounds == 1

    @property
    def rounds(self) -> int:
        """Exchanges per reduction: the size of the largest cover."""
        return max(len(self.cover(rank)) for rank in range(self.world_size))

    def of(self, rank: int) -> range:
        """The units that `rank` runs; the first `units % W` ranks have one more than the others."""
        each, more = divmod(self.units, self.world_size)
        first = rank * each + min(rank, more)
        return range(first, first + each + (rank < more))

    def cover(self, rank: int) -> tuple[Node, ...]:
        """The maximal tree nodes inside the rank's span, in order."""
        span = self.of(rank)
        return tuple(_cover(span.start, span.stop, self.root))


def _cover(first: int, last: int, node: Node) -> list[Node]:
    if last <= node.first or node.last <= first:
        return []
    if first <= node.first and node.last <= last:
        return [node]
    left, right = node.children()
    return _cover(first, last, left) + _cover(first, last, right)


def parent(node: Node, root: Node) -> Node:
    """The node that `node` is a child of. `node` must lie in the tree of `root` and not be it."""
    above = root
    while True:
        left, right = above.children()
        if node in (left, right):
            return above
        above = left if node.last <= left.last else right


class TreeFold(Generic[T]):
    """Sums values of consecutive units along the tree as they come, keeping at most log2(units) + 1 of them.

    `add(left, right)` may work in place on `left`: a value that was pushed belongs to the fold.
    """

    def __init__(self, units: int, add: Callable[[T, T], T]) -> None:
        self._root = Node(0, units)
        self._add = add
        self._stack: list[tuple[Node, T]] = []

    def push(self, unit: int, value: T) -> None:
        """Takes the value of `unit`, which must follow the last one."""
        node = Node(unit, unit + 1)
        while self._stack and node != self._root:
            above = parent(node, self._root)
            left, left_value = self._stack[-1]
            if above.children() != (left, node):
                break
            self._stack.pop()
            node, value = above, self._add(left_value, value)
        self._stack.append((node, value))

    def take(self, cover: tuple[Node, ...]) -> tuple[T, ...]:
        """The sums of the nodes of `cover`, and forgets them. Raises ValueError unless exactly these are held."""
        held = tuple(node for node, _ in self._stack)
        if held != cover:
            raise ValueError(f"a fold holds the nodes {held} where {cover} were to be summed: a unit came not once")
        values = tuple(value for _, value in self._stack)
        self._stack.clear()
        return values


def combine(parts: Mapping[Node, T], root: Node, add: Callable[[T, T], T]) -> T:
    """The sum at `root` from the sums of nodes that partition it."""
    if root in parts:
        return parts[root]
    left, right = root.children()
    return add(combine(parts, left, add), combine(parts, right, add))
