"""The run that the first weights come from: its last commit is looked up once and kept in this run's storage.

What must stay true: every rank of every start takes the same weights, whatever becomes of the other run's log later;
ranks read one small object, however long that log is.
"""

from __future__ import annotations

from contextlib import suppress

from tessera_api.resolved_run import FirstWeights, ForeignWeights, ResolvedRun, read_first
from tessera_api.run_directory import ORIGIN_NAME
from tessera_coordinator.core.history import IllegalEntry
from tessera_coordinator.foreign_origin import ForeignUnfit, foreign_weights
from tessera_coordinator.run_log import RunLog
from tessera_store import ObjectExists, ObjectMissing, Store, open_store


class OriginUnfit(Exception):
    """The other run's storage holds no weights that this one could begin with."""


def pin_origin(store: Store, resolved: ResolvedRun) -> None:
    """Leave `origin.json` where the run has an origin and it is not there yet. Raises OriginUnfit, StoreError."""
    origin = resolved.origin
    if origin is None or _is_pinned(store):
        return
    if origin.run is None:
        try:
            return _keep(store, foreign_weights(resolved).canonical())
        except ForeignUnfit as error:
            raise OriginUnfit(f"run {resolved.name} starts from a model in {origin.storage}: {error}") from error
    try:
        history = RunLog(open_store(origin.storage)).read_all()
    except IllegalEntry as error:
        raise OriginUnfit(
            f"run {origin.run} has a log in {origin.storage} that breaks its own rules: {error}"
        ) from error
    if history.ended is None or history.ended.reason != "complete" or history.newest is None:
        raise OriginUnfit(
            f"run {resolved.name} starts from run {origin.run}, whose storage {origin.storage} holds no complete run:"
            f" complete {origin.run} first, then create {resolved.name} anew"
        )
    newest = history.newest
    before = _before(open_store(origin.storage))
    first = FirstWeights(
        storage=origin.storage,
        step=newest.step,
        objects=newest.objects,
        configuration=before.configuration if before else None,
        beside=before.beside if before else {},
    )
    return _keep(store, first.canonical())


def _keep(store: Store, data: bytes) -> None:
    with suppress(ObjectExists):  # the other coordinator was quicker, and read what nobody writes any more
        store.create(ORIGIN_NAME, data)


def _before(other: Store) -> FirstWeights | ForeignWeights | None:
    """What the other run began with: a model of others, itself or by way of a third."""
    try:
        return read_first(other.get(ORIGIN_NAME))
    except ObjectMissing:
        return None


def _is_pinned(store: Store) -> bool:
    try:
        store.get(ORIGIN_NAME)
    except ObjectMissing:
        return False
    return True
