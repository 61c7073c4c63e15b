"""Dedup: which documents are exact copies of an earlier one, and which are held out.

The hashes are cut into buckets by their leading bits, about BUCKET_DOCUMENTS each; a bucket is a task that reads its
slice of every chunk's sorted hashes, so that memory is bounded by a bucket and each hash is read once. The first copy
in order of the sources survives. What must stay true: neither how the sources were cut into chunks nor the order of
the tasks changes the result, and copies are gone before the split, so that no held-out text is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tessera_data import ingest
from tessera_data.manifest import Split
from tessera_data.plan import Plan
from tessera_data.workspace import Workspace

BUCKET_DOCUMENTS = 1 << 20

Mask = NDArray[np.bool_]


COUNT = "buckets"


def buckets(plan: Plan, workspace: Workspace) -> int:
    """How many there are, a power of two; recorded once. Needs every chunk ingested."""
    if not workspace.done(COUNT):
        documents: int = sum(workspace.record(ingest.task(chunk.number))["distinct"] for chunk in plan.chunks)
        workspace.write_record(COUNT, 1 << max(0, (max(documents, 1) - 1) // BUCKET_DOCUMENTS).bit_length())
    return int(workspace.record(COUNT))


def task(bucket: int) -> str:
    """Name of the task, its record and its file: chunk numbers, then ordinals, of what the bucket removes, sorted."""
    return f"dedup-{bucket:06}"


def deduplicate(plan: Plan, bucket: int, of: int, workspace: Workspace) -> None:
    """Does the task unless it is done. Memory: about 100 bytes for each document of the bucket."""
    name = task(bucket)
    if workspace.done(name):
        return
    parts = [_slice(ingest.read_keys(workspace, chunk.number), bucket, of) for chunk in plan.chunks]
    high = np.concatenate([part.high for part in parts])
    low = np.concatenate([part.low for part in parts])
    ordinal = np.concatenate([part.ordinal for part in parts])
    chunk = np.repeat(np.arange(len(parts), dtype=np.uint64), [part.high.size for part in parts])
    order = np.lexsort((chunk, low, high))  # a chunk holds each hash once
    again = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    gone = np.sort(order[1:][again])
    gone = gone[np.lexsort((ordinal[gone], chunk[gone]))]
    workspace.write_rows(name, np.concatenate([chunk[gone], ordinal[gone]]))
    workspace.write_record(name, {"removed": gone.size})


def _slice(keys: ingest.Keys, bucket: int, of: int) -> ingest.Keys:
    width = (1 << 64) // of
    edges = np.array([bucket * width, (bucket + 1) * width - 1], np.uint64)
    first = int(np.searchsorted(keys.high, edges[0], side="left"))
    after = int(np.searchsorted(keys.high, edges[1], side="right"))
    # Copied: a map holds a descriptor open as long as anything of it is held, and there may be many chunks.
    high, low, ordinal = (np.array(row[first:after]) for row in (keys.high, keys.low, keys.ordinal))
    return ingest.Keys(high, low, ordinal)


@dataclass(frozen=True)
class Selection:
    """What becomes of a chunk's documents: masks over them."""

    kept: Mask
    held_out: Mask
    """Decided by the low word of the hash alone: a document stays on its side whatever else is built with it."""
    sampled: Mask
    """The documents that a tokenizer may be trained on; decided by the high word."""

    def of(self, split: Split) -> Mask:
        """The documents of a split."""
        return self.kept & (self.held_out if split is Split.HELD_OUT else ~self.held_out)


def select(plan: Plan, chunk: int, workspace: Workspace, sample: Fraction = Fraction(1)) -> Selection:
    """What becomes of the chunk's documents; `sample` is the share for the tokenizer. Needs every bucket done."""
    documents = workspace.record(ingest.task(chunk))["documents"]
    keys = ingest.read_keys(workspace, chunk)
    kept, held_out, sampled = (np.zeros(documents, np.bool_) for _ in range(3))
    kept[keys.ordinal] = True
    for ordinals in _removed(chunk, workspace):
        kept[ordinals] = False
    held_out[keys.ordinal] = _below(keys.low, Fraction(plan.build.spec.held_out.share))
    sampled[keys.ordinal] = _below(keys.high, sample)
    return Selection(kept, held_out, sampled)


def _removed(chunk: int, workspace: Workspace) -> Iterator[NDArray[np.uint64]]:
    for bucket in range(int(workspace.record(COUNT))):
        rows = workspace.rows(task(bucket), np.uint64)
        chunks, ordinals = rows[: rows.size // 2], rows[rows.size // 2 :]
        first, after = np.searchsorted(chunks, np.array([chunk, chunk + 1], np.uint64))
        yield ordinals[first:after]


def _below(words: NDArray[np.uint64], share: Fraction) -> Mask:
    """Which hash words lie in the lowest `share` of all."""
    limit = int(share * (1 << 64))
    return words < np.uint64(limit) if limit < 1 << 64 else np.ones(words.shape, np.bool_)
