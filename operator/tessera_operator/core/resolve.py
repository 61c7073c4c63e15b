"""From a run and its datasets to run.json: everything that its pods need to know. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tessera_api.dataset_build import DatasetBuildStatus
from tessera_api.recipes import Recipe, recipe
from tessera_api.resolved_run import ResolvedDataset, ResolvedOrigin, ResolvedRun
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
    key: int | None = None
    """The number of the key that this start's pods begin with."""


@dataclass(frozen=True)
class Ingredients:
    """What a run is made from, all of it there."""

    datasets: Mapping[str, DatasetBuildStatus | None]
    origin: ResolvedRun | None = None
    """The first start of the run that the weights come from; None where the run begins with fresh ones."""


def resolve(run: TrainingRun, made_from: Ingredients, profile: Profile, around: Surroundings) -> ResolvedRun:
    """The first start of a run. Everything that could be missing was asked for before."""
    before = made_from.origin
    plain = run.model_copy(update={"status": None})
    return ResolvedRun(
        start=1,
        started=around.now,
        created=around.created,
        asked=plain,
        run=plain,
        recipe=_recipe(run, before),
        origin=_origin(run, before),
        datasets=resolved_datasets(made_from.datasets),
        storage=f"{run.spec.storage.uri.rstrip('/')}/{run.metadata.name}",
        device=profile.device,
        threads=profile.threads,
        coordinator=around.coordinator,
        first_key=around.key,
        ordered_by=profile.topology_label,
        node_price=profile.node_price(run.spec.nodes.processes_per_node),
        versions=dict(around.versions),
    )


def _origin(run: TrainingRun, before: ResolvedRun | None) -> ResolvedOrigin | None:
    if before is not None:
        return ResolvedOrigin(run=before.name, storage=before.storage)
    uri = run.spec.model.from_.uri if run.spec.model.from_ is not None else None
    return ResolvedOrigin(storage=uri) if uri is not None else None


def _recipe(run: TrainingRun, origin: ResolvedRun | None) -> Recipe | None:
    if origin is not None:
        return origin.recipe
    return recipe(run.spec.model.recipe) if run.spec.model.recipe is not None else None


def resolve_again(before: ResolvedRun, run: TrainingRun, profile: Profile, around: Surroundings) -> ResolvedRun:
    """A later start: what may change is as the resource has it now, everything that decides bits as it was."""
    plain = run.model_copy(update={"status": None})
    changed = {
        "asked": plain,
        "run": plain,
        "device": profile.device,
        "versions": dict(around.versions),
        "ordered_by": profile.topology_label,
        "node_price": profile.node_price(run.spec.nodes.processes_per_node),
    }
    here = {"started": around.now, "coordinator": around.coordinator, "first_key": around.key}
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
            "learned": status.learned,
        }
    )
