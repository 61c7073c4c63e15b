"""Packed streams: every conversation lies whole in one sample, samples are full, and all ranks pack alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera_data.manifest import Split
from tessera_data.packed_stream import PackedStream, packed
from tessera_data.pieces import FetchedPieces
from tessera_data.reader import Dataset
from tessera_data.shards import LEARNED
from tessera_data.stream import TokenStream
from tessera_store import open_store
from tests.unit.test_data_reader import documents, write_dataset

FILL = 7


def a_stream(folder: Path, lengths: list[list[int]], length: int, fetched: bool = False) -> PackedStream:
    shards = [documents(each, seed) for seed, each in enumerate(lengths)]
    dataset = Dataset.open(write_dataset(folder, shards), folder / "cache")
    info = dataset.manifest.splits[Split.TRAIN]
    pieces = FetchedPieces(open_store(folder.as_uri()), folder / "cache") if fetched else dataset.pieces
    return PackedStream(TokenStream(info, "uint16", pieces, 1), length, FILL)


@given(st.lists(st.integers(1, 33), min_size=1, max_size=200))
def test_nothing_overflows_and_best_fit_needs_few_samples(lengths: list[int]) -> None:
    place = packed(np.array(lengths, np.int64), 33)
    filled = np.bincount(place, weights=lengths)
    assert filled.max() <= 33
    assert filled.min() > 0, "samples are numbered without gaps"
    least = -(-sum(lengths) // 33)
    assert len(filled) <= 11 / 9 * least + 11 + sum(length > 16 for length in lengths)
    assert (np.sort(filled)[:-1] + np.sort(filled)[1:] > 33).all() or len(filled) < 2, "no two would fit into one"


def test_short_chats_fill_samples_to_more_than_97_in_100() -> None:
    lengths = np.clip(np.random.default_rng(1).lognormal(4.5, 0.8, 20_000), 8, 2000).astype(np.int64)
    place = packed(lengths, 2049)
    assert lengths.sum() / ((place.max() + 1) * 2049) > 0.97


@pytest.mark.parametrize("fetched", [False, True])
def test_every_document_comes_once_whole_and_apart_from_the_others(tmp_path: Path, fetched: bool) -> None:
    lengths = [[5, 9, 3, 12], [8, 8, 1], [2, 15]]
    stream = a_stream(tmp_path, lengths, 15, fetched)
    batch = stream.read(np.arange(stream.samples))
    segments = batch.segments()
    found = []
    for row, marks in zip(batch.tokens, segments, strict=True):
        parts = [row[marks == mark].tolist() for mark in range(marks.max() + 1)]
        found += [tuple(part) for part in parts if set(part) != {FILL}]
    expected = [tuple(text) for seed, each in enumerate(lengths) for text in documents(each, seed)]
    assert sorted(found) == sorted(expected)
    assert stream.samples == 4
    assert stream.filled_share == pytest.approx(63 / 64)


def test_a_document_that_is_longer_than_a_sample_is_cut(tmp_path: Path) -> None:
    stream = a_stream(tmp_path, [[40, 6]], 15)
    assert (stream.samples, stream.cut_tokens) == (2, 24)
    [text, _] = documents([40, 6], 0)
    assert stream.read(np.array([0])).tokens[0].tolist() == text[:16]


def test_marks_of_what_is_learned_make_tokens_negative(tmp_path: Path) -> None:
    text = (np.array([3, 4, 5], np.uint32) | np.array([0, LEARNED, LEARNED], np.uint32)).tolist()
    dataset = Dataset.open(write_dataset(tmp_path, [[text]], "uint32"), tmp_path / "cache")
    row = PackedStream(dataset.row(Split.TRAIN), 4, FILL).read(np.array([0])).tokens[0]
    assert (row < 0).tolist() == [False, True, True, False, False]
    assert (row & 0x7FFFFFFF).tolist() == [3, 4, 5, FILL, FILL]


def test_a_dataset_without_documents_has_no_samples(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 0 tokens|no conversation"):
        a_stream(tmp_path, [[]], 15)
