"""Baselines: how well three simple models know the held-out text, in bits per byte, beside which a trained model
stands.

- gzip: the held-out documents, one after the other, by zlib at level 9; it has seen no training text.
- unigram: p(b) = (n(b) + 1) / (n + 256) over the bytes of the training documents.
- bigram: p(b | a) = (n(a, b) + p(b)) / (n(a) + 1), p(b) the unigram; a document's first byte by the unigram.

All documents are UTF-8 as it was encoded, decoded from the shards by the dataset's tokenizer, without end-of-text
tokens; those cut by the limits below are left out, so that the time is bounded. The same figure for a model is the sum
of its losses over the held-out tokens, in bits, by the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera_data.manifest import Split
from tessera_data.reader import Dataset

TRAINING_BYTES = 64 << 20
HELD_OUT_BYTES = 16 << 20
READ_TOKENS = 1 << 16


@dataclass(frozen=True)
class Baselines:
    """Bits per byte on the held-out text."""

    gzip: float
    unigram: float
    bigram: float
    bytes: int
    """Of held-out text that was measured."""
    training_bytes: int
    """Of training text that unigram and bigram have seen."""


def measure(dataset: Dataset, training_bytes: int = TRAINING_BYTES, held_out_bytes: int = HELD_OUT_BYTES) -> Baselines:
    """ValueError if a split is too short to be read; raises CorruptShard and tessera_store's errors."""
    pairs = np.zeros((256, 256), np.int64)
    singles = np.zeros(256, np.int64)
    for text in _texts(dataset, Split.TRAIN, training_bytes):
        singles += np.bincount(text, minlength=256)
        pairs += _pairs(text)
    unigram = (singles + 1) / (singles.sum() + 256)
    bigram = (pairs + unigram) / (pairs.sum(axis=1, keepdims=True) + 1)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: gzip's frame
    size, packed, single_bits, pair_bits = 0, 0, 0.0, 0.0
    for text in _texts(dataset, Split.HELD_OUT, held_out_bytes):
        size += text.size
        packed += len(packer.compress(text.tobytes()))
        single_bits -= float(np.log2(unigram)[text].sum())
        pair_bits -= float((np.log2(bigram) * _pairs(text)).sum() + np.log2(unigram[text[0]]))
    if not size:
        raise ValueError(f"the held-out split of {dataset.manifest.name} has no whole document to measure")
    packed += len(packer.flush())
    return Baselines(8 * packed / size, single_bits / size, pair_bits / size, size, int(singles.sum()))


def _pairs(text: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[256, 256]: how often each byte follows each."""
    places = text[:-1].astype(np.int64) * 256 + text[1:]
    return np.bincount(places, minlength=1 << 16).reshape(256, 256)


def _texts(dataset: Dataset, split: Split, limit: int) -> Iterator[NDArray[np.uint8]]:
    """The whole documents of a split, as bytes, until they are `limit` bytes together."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(dataset.tokenizer())
    read = 0
    for tokens in _documents(dataset, split):
        text = np.frombuffer(tokenizer.decode(tokens.tolist(), skip_special_tokens=False).encode(), np.uint8)
        read += text.size
        if read > limit:
            return
        yield text


def _documents(dataset: Dataset, split: Split) -> Iterator[NDArray[np.int32]]:
    """The tokens of each document, without its last."""
    total = dataset.manifest.splits[split].tokens
    stream = dataset.row(split)
    held = np.zeros(0, np.int32)
    for start in range(0, total, READ_TOKENS):
        row = np.concatenate([held, stream.span(start, min(start + READ_TOKENS, total))])
        ends = np.flatnonzero(row == dataset.manifest.tokenizer.end_of_text)
        *documents, held = np.split(row, ends + 1)
        yield from (document[:-1] for document in documents)
