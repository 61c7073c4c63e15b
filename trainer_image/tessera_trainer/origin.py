"""Chains: a run that starts `from` another one takes that run's final weights, and nothing else of it."""

from __future__ import annotations

from tessera_api.resolved_run import FirstWeights, ResolvedRun
from tessera_api.run_directory import ORIGIN_NAME
from tessera_store import Store, open_store
from tessera_trainer.optimiser import AdamW
from tessera_trainer.restore import restore

WEIGHTS = "weight/"


def load_origin(resolved: ResolvedRun, store: Store, optimiser: AdamW) -> None:
    """Fill this rank's weights from the origin's last commit, as the coordinator left it in the run's `store`; moments
    stay at zero.

    Without an origin nothing happens. Raises CheckpointDamaged, ValueError (another model) and the store's errors.
    """
    if resolved.origin is None:
        return
    first = FirstWeights.model_validate_json(store.get(ORIGIN_NAME))
    weights = [shard for shard in optimiser.state() if shard.name.startswith(WEIGHTS)]
    restore(first.objects, open_store(first.storage), weights)
