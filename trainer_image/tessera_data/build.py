"""Build: the stages of a dataset, in order. Each is a row of tasks that may run in any order and in different
processes.

    plan -> ingest (a chunk) -> dedup (a bucket) -> tokenizer -> encode (a chunk) -> shards (a shard) -> manifest

What must stay true: a build that was killed anywhere goes on with the first task that has no record, so that at most
one is redone; the output shows nothing before its manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tessera_api.dataset_build import DatasetBuild
from tessera_data.dedup import buckets, deduplicate
from tessera_data.encode import encode, make_tokenizer, require_documents
from tessera_data.ingest import ingest
from tessera_data.manifest import MANIFEST, TOKENIZER, Manifest, Split
from tessera_data.plan import CHUNK_BYTES, Plan, make_plan
from tessera_data.publish import SHARD_BYTES, Standing, cuts, make_manifest, publish, write_shard
from tessera_data.shards import ShardInfo
from tessera_data.tokenizer import Encoder
from tessera_data.workspace import Workspace
from tessera_store import ObjectMissing, Store, open_store


class Stage(StrEnum):
    """The stages of a build."""

    PLAN = "plan"
    INGEST = "ingest"
    DEDUP = "dedup"
    TOKENIZER = "tokenizer"
    ENCODE = "encode"
    SHARDS = "shards"


Progress = Callable[[Stage, int, int], None]
"""(stage, tasks done, tasks in all), after each task."""


@dataclass(frozen=True)
class Sizes:
    """How the work is cut."""

    chunk_bytes: int = CHUNK_BYTES
    """Does not change the dataset."""
    shard_bytes: int = SHARD_BYTES
    """Changes the shards; for tests only, not part of the fingerprint."""


@dataclass(frozen=True)
class Built:
    """A published dataset."""

    uri: str
    """Of the manifest."""
    data: bytes
    """The manifest's bytes."""
    manifest: Manifest
    reused: bool
    """Whether a build of this fingerprint was there already, whole."""


def build_dataset(build: DatasetBuild, work: Path, progress: Progress, sizes: Sizes | None = None) -> Built:
    """Builds and publishes; `work` keeps what is finished until then. Raises Refused, NotReproduced and tessera_store's
    errors; the same call goes on after any of them, and after a kill."""
    sizes = sizes or Sizes()
    notes = Workspace(work / build.metadata.name)
    plan = make_plan(build, notes, sizes.chunk_bytes)
    progress(Stage.PLAN, len(plan.chunks), len(plan.chunks))
    output = open_store(build.spec.output.uri)
    if (found := _published(plan, output)) is not None:
        return found
    workspace = workspace_of(plan, work, sizes)
    workspace.sweep()
    encoder = _encode_all(plan, workspace, progress)
    shards = _write_shards(plan, encoder, workspace, output, (progress, sizes.shard_bytes))
    manifest = make_manifest(plan, encoder, shards, workspace)
    publish(manifest, workspace.path(TOKENIZER).read_bytes(), output, plan.folder)
    workspace.remove()
    return Built(_address(plan, output), manifest.encode(), manifest, reused=False)


def workspace_of(plan: Plan, work: Path, sizes: Sizes) -> Workspace:
    """Where the tasks of this plan leave their files: chunks of another length are other tasks."""
    return Workspace(work / plan.build.metadata.name / f"{plan.fingerprint[:32]}-{sizes.chunk_bytes}")


def _encode_all(plan: Plan, workspace: Workspace, progress: Progress) -> Encoder:
    for done, chunk in enumerate(plan.chunks, 1):
        ingest(plan, chunk, workspace)
        progress(Stage.INGEST, done, len(plan.chunks))
    require_documents(plan, workspace)
    count = buckets(plan, workspace)
    for bucket in range(count):
        deduplicate(plan, bucket, count, workspace)
        progress(Stage.DEDUP, bucket + 1, count)
    encoder = make_tokenizer(plan, workspace)
    progress(Stage.TOKENIZER, 1, 1)
    for done, chunk in enumerate(plan.chunks, 1):
        encode(plan, chunk.number, encoder, workspace)
        progress(Stage.ENCODE, done, len(plan.chunks))
    return encoder


def _write_shards(
    plan: Plan, encoder: Encoder, workspace: Workspace, output: Store, settings: tuple[Progress, int]
) -> dict[Split, tuple[ShardInfo, ...]]:
    progress, shard_bytes = settings
    standing = Standing(output, plan.folder)
    most_tokens = shard_bytes // encoder.dtype.itemsize
    wanted = [cut for split in Split for cut in cuts(plan, split, most_tokens, workspace)]
    shards: dict[Split, list[ShardInfo]] = {split: [] for split in Split}
    for done, cut in enumerate(wanted, 1):
        shards[cut.split].append(write_shard(cut, encoder.dtype, workspace, standing))
        progress(Stage.SHARDS, done, len(wanted))
    return {split: tuple(infos) for split, infos in shards.items()}


def _published(plan: Plan, output: Store) -> Built | None:
    """The dataset, if a build of the same fingerprint is there with all its objects; what is lost is built again."""
    try:
        data = output.get(f"{plan.folder}/{MANIFEST}")
    except ObjectMissing:
        return None
    uri = _address(plan, output)
    manifest = Manifest.decode(data, uri)
    if not Standing(output, plan.folder).completes(manifest):
        return None
    return Built(uri, data, manifest, reused=True)


def _address(plan: Plan, output: Store) -> str:
    return f"{output.uri}/{plan.folder}/{MANIFEST}"
