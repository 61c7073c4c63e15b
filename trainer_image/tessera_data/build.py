"""Build: the stages of a dataset, in order. Each is a row of tasks that may run in any order and in different
processes.

    plan -> ingest (a chunk) -> dedup (a bucket) -> tokenizer -> encode (a chunk) -> shards (a shard) -> publish

What must stay true: a build that was killed anywhere goes on with the first task that has no record, so that at most
one is redone; the output shows nothing before its manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from tessera_api.dataset_build import DatasetBuild
from tessera_data import dedup, encode, ingest
from tessera_data.manifest import MANIFEST, TOKENIZER, Manifest, Split
from tessera_data.plan import CHUNK_BYTES, Plan, make_plan, share_digests
from tessera_data.publish import SHARD_BYTES, Standing, cuts, make_manifest, publish, write_shard
from tessera_data.shards import ShardInfo
from tessera_data.team import Alone, BuiltElsewhere, Task, Team, Workers
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
    PUBLISH = "publish"


PUBLISHED = "published"


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
    chunks: int
    """Into how many the sources were cut."""


def build_dataset(
    build: DatasetBuild, work: Path, progress: Progress, sizes: Sizes | None = None, team: Team | None = None
) -> Built:
    """Builds and publishes; `work` keeps what is finished until then, and of a team its store. Raises Refused,
    NotReproduced and tessera_store's errors; the same call goes on after any of them, and after a kill."""
    sizes, output = sizes or Sizes(), open_store(build.spec.output.uri)
    notes = Workspace(work / build.metadata.name)
    if team is not None:
        notes = team.workspace(notes)
        share_digests(build, notes, team, partial(progress, Stage.PLAN))
    plan = make_plan(build, notes, sizes.chunk_bytes)
    progress(Stage.PLAN, len(plan.chunks), len(plan.chunks))
    workers: Workers = Alone()
    if team is not None:
        team.is_over = lambda: _published(plan, output) is not None
        workers = team
    workspace = workers.workspace(workspace_of(plan, work, sizes))
    if (found := _published(plan, output)) is not None:
        workspace.remove()
        return found
    try:
        return _Work(plan, workspace, output, workers, progress).build(sizes)
    except (BuiltElsewhere, ObjectMissing, FileNotFoundError):
        # Whoever publishes takes away what the team has shared.
        if (found := _published(plan, output)) is None:
            raise
        return found


def team_of(build: DatasetBuild, index: int, of: int) -> Team:
    """The workers of a build, as one of them sees them. Its heart begins to beat."""
    team = Team(open_store(f"{build.spec.output.uri.rstrip('/')}/.build/{build.metadata.name}"), index, of)
    team.begin()
    return team


def workspace_of(plan: Plan, work: Path, sizes: Sizes) -> Workspace:
    """Where the tasks of this plan leave their files: chunks of another length are other tasks."""
    return Workspace(work / plan.build.metadata.name / f"{plan.fingerprint[:32]}-{sizes.chunk_bytes}")


@dataclass(frozen=True)
class _Work:
    """The stages after the plan."""

    plan: Plan
    workspace: Workspace
    output: Store
    workers: Workers
    progress: Progress

    def build(self, sizes: Sizes) -> Built:
        self.workspace.sweep()
        encoder = self._encode_all()
        shards = self._write_shards(encoder, sizes.shard_bytes)
        built: list[Manifest] = []
        self._stage(Stage.PUBLISH, [Task(PUBLISHED, lambda: built.append(self._publish(encoder, shards)))])
        if not built:
            raise BuiltElsewhere
        self.workspace.remove()
        (manifest,) = built
        address, chunks = _address(self.plan, self.output), len(self.plan.chunks)
        return Built(address, manifest.encode(), manifest, reused=False, chunks=chunks)

    def _stage(self, stage: Stage, tasks: Sequence[Task]) -> None:
        self.workers.complete(tasks, self.workspace, partial(self.progress, stage))

    def _encode_all(self) -> encode.AnyEncoder:
        plan, workspace = self.plan, self.workspace
        chunks = plan.chunks
        self._stage(
            Stage.INGEST,
            [Task(ingest.task(chunk.number), partial(ingest.ingest, plan, chunk, workspace)) for chunk in chunks],
        )
        encode.require_documents(plan, workspace)
        count = dedup.buckets(plan, workspace)
        self._stage(
            Stage.DEDUP,
            [
                Task(dedup.task(bucket), partial(dedup.deduplicate, plan, bucket, count, workspace))
                for bucket in range(count)
            ],
        )
        self._stage(Stage.TOKENIZER, [Task(encode.TOKENIZER_TASK, partial(encode.make_tokenizer, plan, workspace))])
        encoder = encode.read_encoder(plan, workspace)
        self._stage(
            Stage.ENCODE,
            [
                Task(encode.task(chunk.number), partial(encode.encode, plan, chunk.number, encoder, workspace))
                for chunk in chunks
            ],
        )
        encode.require_tokens(plan, workspace)
        return encoder

    def _write_shards(self, encoder: encode.AnyEncoder, shard_bytes: int) -> dict[Split, tuple[ShardInfo, ...]]:
        standing = Standing(self.output, self.plan.folder)
        most_tokens = shard_bytes // encoder.dtype.itemsize
        wanted = [cut for split in Split for cut in cuts(self.plan, split, most_tokens, self.workspace)]
        write = partial(write_shard, dtype=encoder.dtype, workspace=self.workspace, standing=standing)
        self._stage(Stage.SHARDS, [Task(cut.task, partial(write, cut)) for cut in wanted])
        shards: dict[Split, list[ShardInfo]] = {split: [] for split in Split}
        for cut in wanted:
            shards[cut.split].append(ShardInfo(*self.workspace.record(cut.task)))
        return {split: tuple(infos) for split, infos in shards.items()}

    def _publish(self, encoder: encode.AnyEncoder, shards: dict[Split, tuple[ShardInfo, ...]]) -> Manifest:
        manifest = make_manifest(self.plan, encoder, shards, self.workspace)
        publish(manifest, self.workspace.path(TOKENIZER).read_bytes(), self.output, self.plan.folder)
        self.workspace.write_record(PUBLISHED, {})
        return manifest


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
    return Built(uri, data, manifest, reused=True, chunks=len(plan.chunks))


def _address(plan: Plan, output: Store) -> str:
    return f"{output.uri}/{plan.folder}/{MANIFEST}"
