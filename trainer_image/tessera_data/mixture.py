"""Mixture: which dataset each position of a run reads, and how many samples of it came before.

Weights are exact rationals. The datasets are the leaves of a binary tree; a node that has been reached n times has sent
round(n * left / (left + right)) of them to its left child, so that no share drifts by more than a bounded number of
samples in any prefix, and both questions are answered for any position in O(depth) without looking at the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

MOST_PARTS = 1 << 31
"""Of the sum of the integer weights: a remainder times a weight then fits 62 bits."""


def integer_weights(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """The smallest integers in the ratio of `weights`. ValueError if one is not positive, or the sum is too large."""
    if not weights or min(weights) <= 0:
        raise ValueError("a mixture needs at least one dataset, and each weight must be above 0")
    scale = lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    divisor = gcd(*whole)
    parts = tuple(weight // divisor for weight in whole)
    if sum(parts) > MOST_PARTS:
        raise ValueError(
            f"the weights of the mixture are {sum(parts)} parts of 1 together, {MOST_PARTS} at most can be told apart: "
            "write them with fewer digits"
        )
    return parts


@dataclass(frozen=True)
class _Node:
    """A leaf, or an inner node with dataset -1."""

    weight: int
    dataset: int
    children: tuple[_Node, _Node] | None = None


@dataclass(frozen=True)
class Interleave:
    """position -> (dataset, index in that dataset's own sequence), from integer weights."""

    weights: tuple[int, ...]
    depth: int = field(init=False)
    deviation: Fraction = field(init=False)
    """No dataset's count in any prefix of n positions is further than this from n * weight / sum: at most 1/2 with two
    datasets, below 1 with up to four, below 2 with any number."""
    _left: Counts = field(init=False, repr=False, compare=False)
    _total: Counts = field(init=False, repr=False, compare=False)
    _next: Counts = field(init=False, repr=False, compare=False)
    _dataset: Counts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        root = min((_merged(self.weights), _halved(self.weights), _folded(self.weights)), key=_deviation)
        nodes = _nodes(root)
        place = {id(node): number for number, node in enumerate(nodes)}
        # A leaf is its own left child with the whole share: descending further changes nothing.
        children = [node.children or (node, node) for node in nodes]
        values = {
            "depth": _depth(root),
            "deviation": _deviation(root),
            "_left": np.array([left.weight for left, _ in children], np.int64),
            "_total": np.array([node.weight for node in nodes], np.int64),
            "_next": np.array([place[id(child)] for pair in children for child in pair], np.int64),
            "_dataset": np.array([node.dataset for node in nodes], np.int64),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def locate(self, positions: Counts) -> tuple[Counts, Counts]:
        """(dataset, index) of each position, all int64 of one shape."""
        count, place = positions.copy(), np.zeros_like(positions)
        for _ in range(self.depth):
            count, place = self._descend(count, place)
        return self._dataset[place], count

    def _descend(self, count: Counts, place: Counts) -> tuple[Counts, Counts]:
        """From the count-th visit of nodes to the visit of their children that it leads to."""
        left, total = self._left[place], self._total[place]
        whole = count // total
        part = (count - whole * total) * left + (total >> 1)
        rounded = part // total
        goes_right = part - rounded * total < total - left  # one visit more, and the rounded count is the same
        before = whole * left + rounded
        return np.where(goes_right, count - before, before), self._next[2 * place + goes_right]


def _merged(weights: Sequence[int]) -> _Node:
    """Huffman's tree: light leaves lie deep."""
    heap = [(weight, number, _Node(weight, number)) for number, weight in enumerate(weights)]
    heapq.heapify(heap)
    while len(heap) > 1:
        light, order, first = heapq.heappop(heap)
        heavy, _, second = heapq.heappop(heap)
        heapq.heappush(heap, (light + heavy, order, _join(first, second)))
    return heap[0][2]


def _halved(weights: Sequence[int]) -> _Node:
    """Fano's tree: the leaves, heaviest first, are cut where the halves differ least, and so on."""
    leaves = sorted((_Node(weight, number) for number, weight in enumerate(weights)), key=lambda leaf: -leaf.weight)

    def build(start: int, stop: int) -> _Node:
        if stop - start == 1:
            return leaves[start]
        sums = np.cumsum([leaf.weight for leaf in leaves[start:stop]])
        cut = start + 1 + int(np.argmin(np.abs(2 * sums[:-1] - sums[-1])))
        return _join(build(start, cut), build(cut, stop))

    return build(0, len(leaves))


def _folded(weights: Sequence[int]) -> _Node:
    """A balanced tree: the heaviest with the lightest, the pairs likewise, and so on. Depth 2, so below 1, for four."""
    nodes = [_Node(weight, number) for number, weight in enumerate(weights)]
    while len(nodes) > 1:
        nodes.sort(key=lambda node: -node.weight)
        pairs = len(nodes) // 2
        middle = nodes[pairs : len(nodes) - pairs]
        nodes = middle + [_join(nodes[place], nodes[-1 - place]) for place in range(pairs)]
    return nodes[0]


def _join(first: _Node, second: _Node) -> _Node:
    return _Node(first.weight + second.weight, -1, (first, second))


def _nodes(root: _Node) -> list[_Node]:
    """Root first."""
    found = [root]
    for node in found:
        found.extend(node.children or ())
    return found


def _depth(node: _Node) -> int:
    return 1 + max(map(_depth, node.children)) if node.children else 0


def _deviation(root: _Node) -> Fraction:
    """The largest error of a leaf: each split adds at most what rounding leaves, scaled by the leaf's share of it."""

    def worst(node: _Node, error: Fraction) -> Fraction:
        if not node.children:
            return error
        step = gcd(node.children[0].weight, node.weight)
        parts = node.weight // step
        rounding = Fraction(parts // 2, parts)  # of a multiple of 1 / parts to a whole number
        return max(worst(child, error * child.weight / node.weight + rounding) for child in node.children)

    return worst(root, Fraction(0))
