"""Permutation: a keyed bijection of [0, n) that is computed where it is needed and never stored.

A Feistel network over pairs (left, right) of Z_a x Z_b with a, b close to the square root of n, so that a * b exceeds
n by less than 2 sqrt(n) + 2 and the walk back into [0, n) is rarely taken. Additions are modulo a and b, not powers of
two.

Everything is vectorised over numpy arrays of uint64, wraps modulo 2**64 on purpose, and each element may have a key of
its own. What must stay true: the same (value, key, n) gives the same result on every machine and in every version of
`tessera_data.order.ORDER_VERSION`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

ROUNDS = 6
"""Four pass the usual tests of a shuffle; six leave a margin at small n (field/data.md 3.6)."""

LARGEST = 1 << 62
"""The halves then stay below 2**31 + 1, so that a 32-bit word times a half fits 64 bits."""

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31, 32))
_STEPS = tuple(np.uint64((turn + 1) * _GOLDEN % 2**64) for turn in range(ROUNDS))


def mix(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit changes about half of the output bits."""
    mixed = words ^ (words >> _SHIFTS[0])
    mixed *= _MULTIPLIER_1
    mixed ^= mixed >> _SHIFTS[1]
    mixed *= _MULTIPLIER_2
    mixed ^= mixed >> _SHIFTS[2]
    return mixed


def derive(keys: Words, numbers: Words | int) -> Words:
    """A new key for each (key, number): the number-th word of the splitmix64 stream that starts at the key."""
    if isinstance(numbers, int):
        return mix(keys + np.uint64((numbers + 1) * _GOLDEN % 2**64))
    return mix(keys + (numbers + np.uint64(1)) * np.uint64(_GOLDEN))


@dataclass(frozen=True)
class Domains:
    """The sets [0, n) that some values are permuted in, one for each value (uint64 arrays of one shape)."""

    n: Words
    a: Words
    b: Words

    @staticmethod
    def of(sizes: Sequence[int]) -> Domains:
        """Sets of these sizes, 1 to LARGEST each."""
        for n in sizes:
            if not 1 <= n <= LARGEST:
                raise ValueError(f"cannot permute {n} values: 1 to {LARGEST} can be")
        a = [isqrt(n - 1) + 1 for n in sizes]
        b = [-(-n // root) for n, root in zip(sizes, a, strict=True)]
        return Domains(np.array(sizes, np.uint64), np.array(a, np.uint64), np.array(b, np.uint64))

    def __getitem__(self, rows: NDArray[np.integer[Any]]) -> Domains:
        return Domains(self.n[rows], self.a[rows], self.b[rows])


def permute(values: Words, keys: Words, domains: Domains) -> Words:
    """Where each value (below its n) is taken by the permutation of its key and domain. O(1) expected for each."""
    result = _network(values, keys, domains)
    outside = np.flatnonzero(result >= domains.n)
    while outside.size:  # ends: the walk follows a cycle of the network that began inside
        result[outside] = _network(result[outside], keys[outside], domains[outside])
        outside = outside[result[outside] >= domains.n[outside]]
    return result


def _network(values: Words, keys: Words, domains: Domains) -> Words:
    left = values // domains.b
    right = values - left * domains.b
    for turn in range(0, ROUNDS, 2):
        left = _add(left, right, keys + _STEPS[turn], domains.a)
        right = _add(right, left, keys + _STEPS[turn + 1], domains.b)
    left *= domains.b
    left += right
    return left


def _add(half: Words, other: Words, word: Words, modulus: Words) -> Words:
    """(half + F(other)) mod modulus, where F's range is [0, modulus) by multiply-and-shift. Overwrites the key
    `word`."""
    word ^= other * _MULTIPLIER_2
    word ^= word >> _SHIFTS[0]
    word *= _MULTIPLIER_1
    word ^= word >> _SHIFTS[3]
    word *= _MULTIPLIER_2
    word >>= _SHIFTS[3]
    word *= modulus
    word >>= _SHIFTS[3]
    word += half
    # A sum below the modulus wraps to a huge number, so that the smaller of the two is the remainder.
    np.minimum(word, word - modulus, out=word)
    return word
