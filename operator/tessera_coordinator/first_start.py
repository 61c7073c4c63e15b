"""The first start of a run, kept in its storage: whoever begins there later must be the same run.

What must stay true: a log is never gone on with by a run that would train something else; one that has lost its
cluster or its run directory goes on, since its manifest says the same.
"""

from __future__ import annotations

from pydantic import ValidationError

from tessera_api.difference import difference
from tessera_api.resolved_run import ResolvedRun
from tessera_store import ObjectExists, Store

NAME = "first-start.json"


class AnotherRun(Exception):
    """The storage holds the log of a run that was asked for differently."""


def be_the_same(store: Store, resolved: ResolvedRun) -> None:
    """Leave this start's document if it is the first. Raises AnotherRun, whose text says what to change; StoreError."""
    try:
        store.create(NAME, resolved.encode())
    except ObjectExists:
        _compare(store, _read(store), resolved)


def _read(store: Store) -> ResolvedRun:
    try:
        return ResolvedRun.model_validate_json(store.get(NAME))
    except ValidationError as error:
        raise AnotherRun(f"{store.uri}/{NAME} is no run's start: {error}") from error


def _compare(store: Store, first: ResolvedRun, resolved: ResolvedRun) -> None:
    changes = [change for change in difference(first.asked.spec, resolved.asked.spec) if not change.mutable]
    lines = [str(change) for change in changes if not change.path.startswith("spec.storage")]
    lines += [
        f"dataset {name}: fingerprint {first.datasets[name].fingerprint} -> {dataset.fingerprint}"
        for name, dataset in resolved.datasets.items()
        if name in first.datasets and first.datasets[name].fingerprint != dataset.fingerprint
    ]
    if lines:
        raise AnotherRun(
            f"{store.uri} holds an earlier run {first.name} that was asked for differently: give this one another name"
            f" or another storage.uri, or remove what is there; what differs: {'; '.join(lines)}"
        )
