"""What to do about a dataset build, and its status. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tessera_api.dataset_build import BuildPhase, DatasetBuild, DatasetBuildStatus
from tessera_api.resource import Condition
from tessera_api.times import stamp

_OVER_CHUNKS = ("ingest", "encode")
"""Stages whose tasks are chunks."""


class BuildResult(BaseModel):
    """The last line of a build, which its pod leaves behind."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    manifest: str
    sha256: str
    fingerprint: str
    tokenizer_sha256: str
    vocabulary: int
    learned: int | None = None
    tokens: int
    splits: dict[str, dict[str, int]]
    chunks: int | None = None
    """None: of an older version."""


class BuildProgress(BaseModel):
    """How far a build is, as one of its pods says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stage: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")]
    done: Annotated[int, Field(ge=0, le=10**9)]
    of: Annotated[int, Field(ge=0, le=10**9)]


@dataclass(frozen=True)
class Ending:
    """How one pod of the build ended."""

    exit_code: int
    message: str
    finished: float


@dataclass(frozen=True)
class BuildView:
    """What decides."""

    build: DatasetBuild
    generation: int
    now: float
    has_job: bool
    job_failed: str
    """Why Kubernetes gave the Job up; empty while it has not."""
    running: bool
    endings: tuple[Ending, ...]
    """Of the Job's pods, oldest first."""
    progress: BuildProgress | None = None
    """What a pod says; None when none is heard."""


@dataclass(frozen=True)
class BuildPlan:
    """What to do, and what to show."""

    make: bool
    status: DatasetBuildStatus
    over: bool


def decide(view: BuildView) -> BuildPlan:
    """A build that has succeeded is never touched again: its result stands in the status."""
    before = view.build.status or DatasetBuildStatus()
    known = next((c for c in before.conditions or () if c.type == "Succeeded"), None)
    if known is not None and known.status != "Unknown":
        return BuildPlan(False, before, True)
    result = next((found for ending in view.endings if (found := _result(ending)) is not None), None)
    if result is not None:
        words = f"{result.tokens} tokens for training, fingerprint {result.fingerprint[:12]}"
        return BuildPlan(False, _status(view, BuildPhase.SUCCEEDED, "True", "Published", words, result), True)
    if view.job_failed:
        words = view.endings[-1].message if view.endings else ""
        said = _last_line(words) or view.job_failed
        return BuildPlan(False, _status(view, BuildPhase.FAILED, "False", "BuildFailed", said, None), True)
    if view.running:
        heard = view.progress
        words = f"{heard.stage}: {heard.done} of {heard.of}" if heard is not None else "a pod is building"
        status = _status(view, BuildPhase.BUILDING, "Unknown", "Building", words, None)
    else:
        status = _status(view, BuildPhase.PENDING, "Unknown", "Pending", "no pod is building yet", None)
    return BuildPlan(not view.has_job, status, False)


def _result(ending: Ending) -> BuildResult | None:
    if ending.exit_code != 0:
        return None
    try:
        return BuildResult.model_validate(json.loads(ending.message))
    except (ValueError, ValidationError):
        return None


def _last_line(words: str) -> str:
    """What the builder said last; Kubernetes keeps the end of its log when it left no result."""
    lines = [line for line in words.splitlines() if line.strip() and not line.startswith("{")]
    return "\n".join(lines)[-2000:]


def _status(
    view: BuildView, phase: BuildPhase, succeeded: str, reason: str, message: str, result: BuildResult | None
) -> DatasetBuildStatus:
    before = view.build.status or DatasetBuildStatus()
    old = next((c for c in before.conditions or () if c.type == "Succeeded"), None)
    now = stamp(view.now)
    since = old.last_transition_time if old is not None and old.status == succeeded else now
    condition = Condition.model_validate(
        {
            "type": "Succeeded",
            "status": succeeded,
            "reason": reason,
            "message": message[:4000],
            "lastTransitionTime": since,
            "observedGeneration": view.generation,
        }
    )
    shown: dict[str, Any] = {"conditions": (condition,), "observed_generation": view.generation, "phase": phase}
    said, chunks = view.progress, before.chunks
    if said is not None and said.stage in _OVER_CHUNKS:
        chunks = f"{said.done}/{said.of}"
    if result is not None and result.chunks is not None:
        chunks = f"{result.chunks}/{result.chunks}"
    shown["chunks"] = chunks
    if result is not None:
        shown |= {
            "documents": sum(split.get("documents", 0) for split in result.splits.values()),
            "tokens": result.tokens,
            "learned": result.learned,
            "fingerprint": result.fingerprint,
            "manifest": result.manifest,
            "manifest_sha256": result.sha256,
            "tokenizer_sha256": result.tokenizer_sha256,
            "vocabulary": result.vocabulary,
        }
    return DatasetBuildStatus(**shown)


def job_failed(job: Mapping[str, Any] | None) -> str:
    """Why a Job failed; empty while it has not."""
    for condition in ((job or {}).get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Failed" and condition.get("status") == "True":
            return str(condition.get("message") or condition.get("reason") or "failed")
    return ""


def endings(pods: Sequence[Mapping[str, Any]], seconds: Any) -> tuple[Ending, ...]:
    """How the pods of a Job ended, oldest first."""
    found = []
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            if ended := (container.get("state") or {}).get("terminated"):
                message = str(ended.get("message") or "")
                found.append(Ending(int(ended["exitCode"]), message, seconds(ended.get("finishedAt"))))
    return tuple(sorted(found, key=lambda ending: ending.finished))
