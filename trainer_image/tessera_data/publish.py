"""Publish: from encoded chunks to shards in the output, and the manifest that makes them visible.

The chunks' documents form one row per split, which is cut into shards at document ends, so that the shards do not
depend on the chunks. A shard is a task. Shards are named by content and may be written twice; the manifest is created
once, last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera_data import encode, ingest
from tessera_data.chat_template import TEMPLATE_VERSION
from tessera_data.documents import TEXT_VERSION
from tessera_data.encode import AnyEncoder
from tessera_data.manifest import MANIFEST, TOKENIZER, Manifest, Split, SplitInfo
from tessera_data.plan import BUILD_VERSION, Plan
from tessera_data.shards import ShardInfo, ShardWriter
from tessera_data.tokenizer import library_version
from tessera_data.workspace import Workspace
from tessera_store import ObjectExists, Store

SHARD_BYTES = 256 << 20
COPY_DOCUMENTS = 1 << 14


class NotReproduced(Exception):
    """Another build of the same fingerprint published other bytes: a defect of Tessera or of a machine."""


@dataclass(frozen=True)
class Slice:
    """Documents [first, after) of a chunk."""

    chunk: int
    first: int
    after: int


@dataclass(frozen=True)
class Cut:
    """One shard of a split: whole documents, SHARD_BYTES at most unless one document is longer."""

    split: Split
    number: int
    slices: tuple[Slice, ...]

    @property
    def task(self) -> str:
        """Name of the task and its record."""
        return f"shard-{self.split}-{self.number:06}"


def cuts(plan: Plan, split: Split, most_tokens: int, workspace: Workspace) -> Iterator[Cut]:
    """The shards of a split, in order. Needs every chunk encoded."""
    number, filled = 0, 0
    held: list[Slice] = []
    for chunk in plan.chunks:
        ends = workspace.rows(f"{encode.task(chunk.number)}.{split}.ends", np.uint64)
        first = 0
        while first < ends.size:
            start = int(ends[first - 1]) if first else 0
            after = int(np.searchsorted(ends, np.uint64(start + max(most_tokens - filled, 0)), side="right"))
            if after == first and filled:
                yield Cut(split, number, tuple(held))
                number, filled, held = number + 1, 0, []
                continue
            after = max(after, first + 1)
            held.append(Slice(chunk.number, first, after))
            filled += int(ends[after - 1]) - start
            first = after
    if held:
        yield Cut(split, number, tuple(held))


class Standing:
    """The objects of one dataset in its output, by name below its folder: what is there need not be written again.

    The output may be another one than before, and may have lost objects: a task's record does not count here.
    """

    def __init__(self, output: Store, folder: str) -> None:
        start = f"{folder}/"
        self._output, self._folder = output, folder
        self._sizes = {info.name.removeprefix(start): info.size for info in output.list(start)}

    def holds(self, info: ShardInfo, token_bytes: int) -> bool:
        """Whether both objects of a shard are there, in their length."""
        found = self._sizes.get(info.tokens_name), self._sizes.get(info.index_name)
        return found == (info.tokens * token_bytes, info.index_bytes)

    def completes(self, manifest: Manifest) -> bool:
        """Whether everything that the manifest names is there."""
        token_bytes = np.dtype(manifest.dtype).itemsize
        shards = (info for split in manifest.splits.values() for info in split.shards)
        return all(self.holds(info, token_bytes) for info in shards) and self._holds_tokenizer(manifest)

    def _holds_tokenizer(self, manifest: Manifest) -> bool:
        if TOKENIZER not in self._sizes:
            return False
        data = self._output.get(f"{self._folder}/{TOKENIZER}")
        return hashlib.sha256(data).hexdigest() == manifest.tokenizer.sha256

    def put(self, name: str, data: bytes | Path) -> None:
        """Writes an object."""
        self._output.put(f"{self._folder}/{name}", data)


def write_shard(cut: Cut, dtype: Any, workspace: Workspace, standing: Standing) -> ShardInfo:
    """Does the task unless it is done and what it wrote is there. Memory: the index, and COPY_DOCUMENTS documents."""
    if workspace.done(cut.task):
        info = ShardInfo(*workspace.record(cut.task))
        if standing.holds(info, np.dtype(dtype).itemsize):
            return info
    name = f"{cut.task}.tokens"
    with workspace.writing(name) as file:
        writer = ShardWriter(file)
        for piece in cut.slices:
            _copy(piece, cut.split, writer, dtype, workspace)
    info, index = writer.finish()
    standing.put(info.tokens_name, workspace.path(name))
    standing.put(info.index_name, index)
    workspace.path(name).unlink()
    workspace.write_record(cut.task, info)
    return info


def _copy(piece: Slice, split: Split, writer: ShardWriter, dtype: Any, workspace: Workspace) -> None:
    name = f"{encode.task(piece.chunk)}.{split}"
    ends = workspace.rows(f"{name}.ends", np.uint64)
    tokens = workspace.rows(f"{name}.tokens", dtype)
    for first in range(piece.first, piece.after, COPY_DOCUMENTS):
        after = min(first + COPY_DOCUMENTS, piece.after)
        start = ends[first - 1] if first else np.uint64(0)
        writer.write(tokens[int(start) : int(ends[after - 1])], ends[first:after] - start)


def make_manifest(
    plan: Plan, encoder: AnyEncoder, shards: Mapping[Split, tuple[ShardInfo, ...]], workspace: Workspace
) -> Manifest:
    """What the build found. Depends on nothing but the fingerprint's inputs."""
    records = [workspace.record(encode.task(chunk.number)) for chunk in plan.chunks]
    splits = {split: _split_info([record[split.value] for record in records], shards[split]) for split in Split}
    build = {
        "versions": [BUILD_VERSION, TEXT_VERSION, library_version()],
        "heldOutShare": str(plan.build.spec.held_out.share.normalize()),
        "sources": [_source(plan, number, workspace) for number in range(len(plan.files))],
    }
    if (template := plan.build.spec.tokenizer.chat_template) is not None:
        build |= {"chatTemplate": template.sha256, "templateVersion": TEMPLATE_VERSION}
    return Manifest(plan.build.metadata.name, plan.fingerprint, encoder.dtype.name, encoder.info, splits, build)


def _split_info(counts: list[dict[str, int]], shards: tuple[ShardInfo, ...]) -> SplitInfo:
    documents, tokens, text_bytes = (sum(count[key] for count in counts) for key in ("documents", "tokens", "bytes"))
    learned = sum(count["learned"] for count in counts) if "learned" in counts[0] else None
    return SplitInfo(documents, tokens, text_bytes, shards, learned)


def _source(plan: Plan, number: int, workspace: Workspace) -> dict[str, Any]:
    """A source as it was asked for, and what each stage made of it."""
    source = plan.build.spec.sources[number]
    counts: dict[str, int] = {}
    for chunk in plan.chunks:
        if chunk.source == number:
            _count(workspace.record(ingest.task(chunk.number)), workspace.record(encode.task(chunk.number)), counts)
    return {
        **source.model_dump(mode="json", by_alias=True, exclude_none=True),
        "files": len(plan.files[number]),
        "fileBytes": sum(file.size for file in plan.files[number]),
        "documents": counts,
    }


def _count(ingested: dict[str, Any], encoded: dict[str, Any], counts: dict[str, int]) -> None:
    found = {
        "read": ingested["documents"] + sum(ingested["drops"].values()),
        **ingested["drops"],
        "duplicate": encoded["duplicates"]["documents"],
        **{cause: encoded[cause]["documents"] for cause in ("notFollowed",) if cause in encoded},
        **{split.value: encoded[split.value]["documents"] for split in Split},
    }
    for cause, count in found.items():
        counts[cause] = counts.get(cause, 0) + count


def publish(manifest: Manifest, tokenizer: bytes, output: Store, folder: str) -> None:
    """Makes the dataset visible. Raises NotReproduced if other bytes stand there, and tessera_store's errors."""
    output.put(f"{folder}/{TOKENIZER}", tokenizer)
    name, data = f"{folder}/{MANIFEST}", manifest.encode()
    try:
        output.create(name, data)
    except ObjectExists as error:
        if output.get(name) != data:
            raise NotReproduced(
                f"{output.uri}/{name} exists with other bytes, though its inputs are the same (fingerprint "
                f"{manifest.fingerprint}): a defect, or a machine that computes wrongly; nothing was changed"
            ) from error
