"""What of a run's checkpoints is no longer needed, and its deletion.

Only the coordinator deletes, and only what the log gave up before: a killed or superseded coordinator can leave
garbage, never a hole. The decision stays right when it is old: what a later entry names was written by the generation
that is open now or by a later one, and neither is ever deletable before it is retired or replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tessera_api.checkpoint import ROOT, CheckpointPrefix, parse_prefix
from tessera_coordinator.core.history import History, Retired
from tessera_store import Store

REWIND_SPAN_STEPS = 400
"""One checkpoint at least so old is always kept: the loss guard must be able to go back behind a slow rise."""


def retention(history: History, keep: int) -> tuple[int, ...]:
    """The steps to retire now, ascending: all but the newest `keep` (at least 1), the anchor and its successor.

    The anchor is the newest commit at least `REWIND_SPAN_STEPS` older than the newest one; its successor, the next
    commit after it, becomes the anchor once it is old enough. So at most keep + 2 checkpoints stay, and as soon as the
    run is that long, there is an anchor, never older than 2 x REWIND_SPAN_STEPS plus two intervals.
    """
    steps = history.steps()
    if not steps:
        return ()
    old = [step for step in steps if step <= steps[-1] - REWIND_SPAN_STEPS]
    anchor = old[-1:]
    successor = [step for step in steps if step not in old][:1]
    kept = {*anchor, *successor, *steps[-max(keep, 1) :]}
    return tuple(step for step in steps if step not in kept)


def deletable(history: History, names: Iterable[str]) -> Iterator[str]:
    """Those of the object names `names` that no reader of this or any later history needs.

    That is what lies in the folder of a retired commit, and what an older generation than the last opened one wrote
    and no commit that can be resumed from names. What is no checkpoint's object is left alone.
    """
    alive = {parse_prefix(part.name) for commit in history.commits for part in commit.objects}
    retired = frozenset(history.retired)
    for name in names:
        prefix = parse_prefix(name)
        if prefix is not None and prefix not in alive and _given_up(prefix, history.generation, retired):
            yield name


def _given_up(prefix: CheckpointPrefix, generation: int, retired: frozenset[Retired]) -> bool:
    return prefix.generation < generation or Retired(prefix.step, prefix.generation) in retired


class Collector:
    """Deletes what is deletable below a run's storage."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self, history: History) -> int:
        """Deletes what `history`, as read from the log, allows; returns how many objects. Raises StoreError."""
        garbage = tuple(deletable(history, (info.name for info in self._store.list(ROOT))))
        for name in garbage:
            self._store.delete(name)
        return len(garbage)
