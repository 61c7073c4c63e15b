"""Ingest: the first task of a chunk: its documents read once, normalised, counted and hashed.

Leaves in the workspace `ingest-N.text` (the documents' UTF-8, one after the other), `.ends` (uint64, bytes), `.keys`
(sorted by hash, each hash once, with its first document: high words, low words, ordinals), and a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tessera_data.documents import Drop, read_documents
from tessera_data.plan import Chunk, Plan
from tessera_data.sources import open_folder
from tessera_data.workspace import Workspace

HASH_BYTES = 16


@dataclass(frozen=True)
class Keys:
    """The hashes of some documents: three arrays of one length."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    ordinal: NDArray[np.uint64]
    """Place of the document in its chunk."""


def task(chunk: int) -> str:
    """Name of the task, its record and its files."""
    return f"ingest-{chunk:06}"


def ingest(plan: Plan, chunk: Chunk, workspace: Workspace) -> None:
    """Does the task unless it is done. Memory: one document, and 40 bytes for each of the chunk."""
    name = task(chunk.number)
    if workspace.done(name):
        return
    folder = open_folder(plan.build.spec.sources[chunk.source], plan.files[chunk.source], plan.build.spec.content)
    drops: Counter[str] = Counter()
    hashes = bytearray()
    lengths: list[int] = []
    with workspace.writing(f"{name}.text") as file:
        for text in _kept((each for span in chunk.spans for each in read_documents(folder, span)), drops):
            data = text.encode()
            file.write(data)
            hashes += blake2b(data, digest_size=HASH_BYTES).digest()
            lengths.append(len(data))
    keys = _distinct(bytes(hashes))
    workspace.write_rows(f"{name}.ends", np.cumsum(np.array(lengths, np.uint64), dtype=np.uint64))
    workspace.write_rows(f"{name}.keys", np.concatenate([keys.high, keys.low, keys.ordinal]))
    record = {"documents": len(lengths), "bytes": sum(lengths), "distinct": keys.high.size, "drops": drops}
    workspace.write_record(name, record)


def _kept(documents: Iterable[str | Drop], drops: Counter[str]) -> Iterator[str]:
    for document in documents:
        if isinstance(document, Drop):
            drops[document.value] += 1
        else:
            yield document


def _distinct(hashes: bytes) -> Keys:
    """The first document of each hash, sorted by hash."""
    words = np.frombuffer(hashes, "<u8").reshape(-1, 2)
    high, low = words[:, 0], words[:, 1]
    order = np.lexsort((low, high))  # stable: equal hashes stay in order of the documents
    again = np.zeros(order.size, np.bool_)
    again[1:] = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    first = order[~again]
    return Keys(high[first], low[first], first.astype(np.uint64))


def read_keys(workspace: Workspace, chunk: int) -> Keys:
    """A chunk's hashes, mapped."""
    rows = workspace.rows(f"{task(chunk)}.keys", np.uint64)
    count = rows.size // 3
    return Keys(rows[:count], rows[count : 2 * count], rows[2 * count :])
