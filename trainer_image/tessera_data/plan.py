"""Plan: everything that a build depends on, its fingerprint, and the chunks of work.

Owns the promise "same fingerprint, same bytes": whatever can change an output object is in `_identity`. How the work is
cut into chunks is not, and does not.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, assert_never

from tessera_api.dataset_build import Content, DatasetBuild, Source, SourceFormat
from tessera_data.chat_template import TEMPLATE_VERSION, pinned_template
from tessera_data.documents import TEXT_VERSION, parquet_row_groups, probe_fields
from tessera_data.manifest import FORMAT
from tessera_data.sources import SourceFile, SourceFolder, Span
from tessera_data.team import Counted, Task, Workers
from tessera_data.tokenizer import library_version, pinned_encoder
from tessera_data.workspace import Workspace
from tessera_store import ObjectInfo

BUILD_VERSION = "tessera-build-1"
"""Changes whenever the same inputs would give other bytes."""

CHUNK_BYTES = 64 << 20

DIGEST_BYTES, DIGEST_FILES = 1 << 30, 4096
"""Of source files, that one worker of several reads at a time."""

SETTLED_SECONDS = 5.0
"""A file that was modified later than this before it was listed may change again under the same time (S3 counts whole
seconds): it is read anew."""


@dataclass(frozen=True)
class Chunk:
    """The unit of work: consecutive spans of one source, about CHUNK_BYTES, at least one span."""

    number: int
    source: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Plan:
    """One build."""

    build: DatasetBuild
    files: tuple[tuple[SourceFile, ...], ...]
    """[sources][files]"""
    chunks: tuple[Chunk, ...]
    fingerprint: str
    """sha256 of all that decides the dataset's bytes."""

    @property
    def folder(self) -> str:
        """Of the dataset, below the output."""
        return f"{self.build.metadata.name}-{self.fingerprint[:16]}"


def make_plan(build: DatasetBuild, notes: Workspace, chunk_bytes: int = CHUNK_BYTES) -> Plan:
    """Lists and hashes every source file (one read of all; what `notes` knows to be unchanged is not read again).

    Raises Refused, and tessera_store's errors.
    """
    if build.spec.tokenizer.train is None:
        pinned_encoder(build.spec.tokenizer)  # a wrong one is refused before any work
    if build.spec.tokenizer.chat_template is not None:
        pinned_template(build.spec.tokenizer.chat_template, ())
    files = []
    spans: list[tuple[int, Span, int]] = []
    for number, source in enumerate(build.spec.sources):
        folder = SourceFolder(source, build.spec.content)
        files.append(_digested(folder, notes))
        probe_fields(folder, files[-1])
        spans += [(number, span, size) for span, size in _spans(folder, files[-1], chunk_bytes)]
    identity = json.dumps(_identity(build, files), sort_keys=True).encode()
    return Plan(build, tuple(files), tuple(_packed(spans, chunk_bytes)), hashlib.sha256(identity).hexdigest())


def _identity(build: DatasetBuild, files: Sequence[Sequence[SourceFile]]) -> dict[str, Any]:
    spec = build.spec.model_dump(mode="json", by_alias=True, exclude={"output", "workers"})
    # One number can be written in many ways, and a field that is left out equals its default.
    spec["heldOut"] = str(build.spec.held_out.share.normalize())
    chat = build.spec.content is Content.CHAT
    for entry, source in zip(spec["sources"], build.spec.sources, strict=True):
        for field in ("messagesField", "promptField", "responseField", "learn"):
            del entry[field]
        entry["textField"] = source.text_column
        if chat:
            entry |= {"columns": source.conversation_columns, "learn": source.learned}
    if not chat:
        del spec["tokenizer"]["chatTemplate"]
    versions = [BUILD_VERSION, FORMAT, TEXT_VERSION, library_version()]
    return {
        "versions": [*versions, TEMPLATE_VERSION, f"jinja2 {version('jinja2')}"] if chat else versions,
        "name": build.metadata.name,
        "spec": spec,
        "files": [[[file.name, file.size, file.sha256] for file in source] for source in files],
    }


def share_digests(build: DatasetBuild, notes: Workspace, workers: Workers, counted: Counted) -> None:
    """Leave in `notes` what the workers have found out about the source files, so that each file is read by one of
    them: a task is about DIGEST_BYTES of files. Raises Refused, and tessera_store's errors."""
    folders = [SourceFolder(source) for source in build.spec.sources]
    began = time.time()
    batches = [(folder, batch) for folder in folders for batch in _batches(folder.files())]
    tasks = [Task(_name(batch), partial(_digest, folder, batch, notes)) for folder, batch in batches]
    workers.complete(tasks, notes, counted)
    found: dict[str, dict[str, list[Any]]] = {_note(folder): {} for folder in folders}
    for folder, batch in batches:
        settled = {info.name for info in batch if info.modified < began - SETTLED_SECONDS}
        known = notes.record(_name(batch))
        found[_note(folder)] |= {name: facts for name, facts in known.items() if name in settled}
    for note, facts in found.items():
        notes.write_record(note, facts)


def _batches(files: Sequence[ObjectInfo]) -> Iterator[tuple[ObjectInfo, ...]]:
    held: list[ObjectInfo] = []
    for info in files:
        held.append(info)
        if sum(each.size for each in held) >= DIGEST_BYTES or len(held) >= DIGEST_FILES:
            yield tuple(held)
            held = []
    if held:
        yield tuple(held)


def _name(batch: tuple[ObjectInfo, ...]) -> str:
    """Of the task: other files are another task."""
    facts = json.dumps([[info.name, info.size, info.modified] for info in batch])
    return f"files-{hashlib.sha256(facts.encode()).hexdigest()[:32]}"


def _digest(folder: SourceFolder, batch: tuple[ObjectInfo, ...], notes: Workspace) -> None:
    if not notes.done(_name(batch)):
        facts = {info.name: [info.size, info.modified, folder.digest(info.name)] for info in batch}
        notes.write_record(_name(batch), facts)


def _note(folder: SourceFolder) -> str:
    place = json.dumps([folder.source.uri, folder.source.include])
    return f"digests-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _digested(folder: SourceFolder, notes: Workspace) -> tuple[SourceFile, ...]:
    """The source's files with their digests."""
    task = _note(folder)
    began = time.time()
    known: dict[str, list[Any]] = notes.record(task) if notes.done(task) else {}
    found: dict[str, list[Any]] = {}
    for info in folder.files():
        before = known.get(info.name, [None, None, ""])
        unchanged = before[:2] == [info.size, info.modified]
        found[info.name] = [info.size, info.modified, before[2] if unchanged else folder.digest(info.name)]
    trusted = {name: facts for name, facts in found.items() if facts[1] < began - SETTLED_SECONDS}
    if trusted != known:
        notes.write_record(task, trusted)
    return tuple(SourceFile(name, size, sha256, modified) for name, (size, modified, sha256) in found.items())


def _spans(folder: SourceFolder, files: Sequence[SourceFile], chunk_bytes: int) -> Iterator[tuple[Span, int]]:
    """(span, bytes), in order."""
    source: Source = folder.source
    for file in files:
        match source.format:
            case SourceFormat.TEXT:
                yield Span(file, 0, file.size), file.size
            case SourceFormat.JSONL:
                for start in range(0, file.size, chunk_bytes):
                    stop = min(start + chunk_bytes, file.size)
                    yield Span(file, start, stop), stop - start
            case SourceFormat.PARQUET:
                for group, size in enumerate(parquet_row_groups(folder, file)):
                    yield Span(file, group, group + 1), size
            case _:
                assert_never(source.format)


def _packed(spans: Sequence[tuple[int, Span, int]], chunk_bytes: int) -> Iterator[Chunk]:
    number, filled = 0, 0
    held: list[Span] = []
    for place, (source, span, size) in enumerate(spans):
        held.append(span)
        filled += size
        following = spans[place + 1] if place + 1 < len(spans) else None
        if following is None or following[0] != source or filled + following[2] > chunk_bytes:
            yield Chunk(number, source, tuple(held))
            number, filled, held = number + 1, 0, []
