"""Chains: a run that starts `from` another one takes that run's final weights, and nothing else of it."""

from __future__ import annotations

from tessera_api.resolved_run import ResolvedRun
from tessera_store import open_store
from tessera_trainer.optimiser import AdamW
from tessera_trainer.restore import restore

WEIGHTS = "weight/"


def load_origin(resolved: ResolvedRun, optimiser: AdamW) -> None:
    """Fill this rank's weights from the origin's last commit, as run.json names it; moments stay at zero.

    Without an origin nothing happens. Raises CheckpointDamaged, ValueError (another model) and the store's errors.
    """
    origin = resolved.origin
    if origin is None:
        return
    weights = [shard for shard in optimiser.state() if shard.name.startswith(WEIGHTS)]
    restore(origin.objects, open_store(origin.storage), weights)
