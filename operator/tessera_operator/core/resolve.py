"""From a run and its datasets to run.json: everything that its pods need to know. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tessera_api.dataset_build import DatasetBuildStatus
from tessera_api.recipes import recipe
from tessera_api.resolved_run import ResolvedDataset, ResolvedRun
from tessera_api.training_run import TrainingRun
from tessera_operator.profiles import Profile


@dataclass(frozen=True)
class Surroundings:
    """Where a run runs."""

    coordinator: str
    """HOST:PORT,HOST:PORT."""
    versions: Mapping[str, str]
    created: float
    now: float


def resolve(
    run: TrainingRun, datasets: Mapping[str, DatasetBuildStatus | None], profile: Profile, around: Surroundings
) -> ResolvedRun:
    """The first start of a run. Everything that could be missing was asked for before."""
    assert run.spec.model.recipe is not None
    plain = run.model_copy(update={"status": None})
    return ResolvedRun(
        start=1,
        started=around.now,
        created=around.created,
        asked=plain,
        run=plain,
        recipe=recipe(run.spec.model.recipe),
        datasets=resolved_datasets(datasets),
        storage=f"{run.spec.storage.uri.rstrip('/')}/{run.metadata.name}",
        device=profile.device,
        threads=profile.threads,
        coordinator=around.coordinator,
        versions=dict(around.versions),
    )


def resolve_again(before: ResolvedRun, run: TrainingRun, profile: Profile, around: Surroundings) -> ResolvedRun:
    """A later start: what may change is as the resource has it now, everything that decides bits as it was."""
    plain = run.model_copy(update={"status": None})
    changed = {"asked": plain, "run": plain, "device": profile.device, "versions": dict(around.versions)}
    here = {"started": around.now, "coordinator": around.coordinator}
    return before.model_copy(update={"start": before.start + 1, **here, **changed})


def resolved_datasets(datasets: Mapping[str, DatasetBuildStatus | None]) -> dict[str, ResolvedDataset]:
    """What the builds came to; all have succeeded."""
    return {name: _dataset(status) for name, status in datasets.items()}


def _dataset(status: DatasetBuildStatus | None) -> ResolvedDataset:
    assert status is not None
    return ResolvedDataset.model_validate(
        {
            "manifest": status.manifest,
            "sha256": status.manifest_sha256,
            "fingerprint": status.fingerprint,
            "tokenizer_sha256": status.tokenizer_sha256,
            "vocabulary": status.vocabulary,
            "tokens": status.tokens,
        }
    )
