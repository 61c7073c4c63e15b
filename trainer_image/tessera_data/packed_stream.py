"""Packed stream: conversations put whole into samples, as many as fit, the longest first (best fit decreasing).

A conversation lies in one sample and is cut only where it is longer than a sample has room. What is left of a sample is
filled with the token that ends texts, which nobody learns. What must stay true: how they are packed is a function of
their lengths and of the length of a sample alone, so that every rank of every start packs alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tessera_data.stream import Batch, Integers, TokenStream


class PackedStream:
    """Samples of T + 1 = `sequence_length` + 1 tokens, out of the documents of `row`; `fill` fills them up. ValueError
    if there are no documents."""

    def __init__(self, row: TokenStream, sequence_length: int, fill: int) -> None:
        self.sequence_length, self._row, self._fill = sequence_length, row, fill
        ends = row.document_ends()
        self._start = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if ends.size else ends
        room = sequence_length + 1
        self._length = np.minimum(ends - self._start, room)
        place = packed(self._length, room)
        self.samples = int(place.max()) + 1 if place.size else 0
        if self.samples < 1:
            raise ValueError("the dataset has no conversation: add some")
        self._documents = np.lexsort((np.arange(place.size), place))
        """Sample after sample."""
        self._first = np.searchsorted(place[self._documents], np.arange(self.samples + 1))
        """[samples + 1]: which of them are whose."""
        self.cut_tokens = int((ends - self._start - self._length).sum())
        """Of conversations that are longer than a sample."""
        self.filled_share = float(self._length.sum()) / (self.samples * room)
        """How much of the samples conversations are."""

    def read(self, samples: Integers) -> Batch:
        """The samples of these numbers (below `samples`). Raises CorruptShard and tessera_store's errors."""
        tokens = np.full((samples.size, self.sequence_length + 1), self._fill, np.int32)
        found = [self._copy(number, row) for number, row in zip(samples.tolist(), tokens, strict=True)]
        offsets = np.zeros(samples.size + 1, np.int64)
        np.cumsum([len(starts) for starts in found], out=offsets[1:])
        return Batch(tokens, np.array([start for starts in found for start in starts], np.int32), offsets)

    def expect(self, samples: Integers) -> None:
        """Says that these samples will be read soon."""
        self._row.expect_tokens(span for number in samples.tolist() for span in self._spans(number))

    def read_wrong_bit(self) -> None:
        """A drill: the first block comes with one. Raises CorruptShard."""
        self._row.read_wrong_bit()

    def _copy(self, number: int, row: NDArray[np.int32]) -> list[int]:
        """Fills `row`; returns the columns above 0 at which a document, or what fills the row up, begins."""
        starts, filled = [], 0
        for start, stop in self._spans(number):
            row[filled : filled + stop - start] = self._row.span(start, stop)
            filled += stop - start
            starts.append(filled)
        return [start for start in starts if start < row.size]

    def _spans(self, number: int) -> Iterator[tuple[int, int]]:
        for document in self._documents[self._first[number] : self._first[number + 1]].tolist():
            start = int(self._start[document])
            yield start, start + int(self._length[document])


def packed(lengths: Integers, room: int) -> Integers:
    """[documents]: in which sample of `room` tokens each is put. None is longer than `room`.

    Best fit decreasing (Johnson 1973; for documents: arXiv 2404.10830): each, from the longest on, goes where it leaves
    the least room. Samples by their room, and which rooms there are as the bits of a number: O(documents x room / 64).
    """
    place = np.zeros(lengths.size, np.int64)
    free: list[list[int]] = [[] for _ in range(room + 1)]
    rooms, count = 0, 0
    for document in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[document])
        fitting = rooms >> length
        if fitting:
            left = length + (fitting & -fitting).bit_length() - 1
            sample = free[left].pop()
            if not free[left]:
                rooms ^= 1 << left
        else:
            sample, left, count = count, room, count + 1
        place[document] = sample
        left -= length
        if left:
            free[left].append(sample)
            rooms |= 1 << left
    return place
