"""Chains: a run that starts `from` something takes its weights, and nothing else of it: another run's final ones, or
those of a model of others."""

from __future__ import annotations

from dataclasses import replace

from tessera_api.resolved_run import FirstWeights, ForeignWeights, ResolvedRun, read_first
from tessera_api.run_directory import ORIGIN_NAME
from tessera_store import Store, open_store
from tessera_trainer.adapter import is_adapter
from tessera_trainer.foreign_config import ForeignModel, shape_of
from tessera_trainer.foreign_weights import ForeignFiles
from tessera_trainer.optimiser import AdamW
from tessera_trainer.restore import restore
from tessera_trainer.shape import ModelShape

WEIGHTS = "weight/"


First = FirstWeights | ForeignWeights


def read_origin(resolved: ResolvedRun, store: Store) -> First | None:
    """What first weights come from, as the coordinator left it in the run's `store`; None: from nowhere. Raises the
    store's errors."""
    return None if resolved.origin is None else read_first(store.get(ORIGIN_NAME))


def model_folder(first: First) -> str:
    """Where the model lies that a run began with, for others to use."""
    return first.storage if isinstance(first, ForeignWeights) else f"{first.storage.rstrip('/')}/export"


def shape_for(resolved: ResolvedRun, first: First | None, vocabulary: int) -> ModelShape:
    """The shape of the run's model, with rows of the run's length. Raises ForeignModel, ValueError."""
    length = resolved.run.spec.data.sequence_length
    if first is None or first.configuration is None:
        if resolved.recipe is None:
            raise ValueError(f"run {resolved.name} has neither a recipe nor a model of others")
        return ModelShape.of(resolved.recipe, vocabulary, length)
    shape = shape_of(first.configuration.encode())
    if vocabulary > shape.vocabulary:
        raise ForeignModel(f"the tokenizer knows {vocabulary} tokens, and the model {shape.vocabulary}")
    return replace(shape, sequence_length=length, positions=shape.sequence_length)


def load_origin(first: First, shape: ModelShape, optimiser: AdamW) -> None:
    """Fill this rank's weights, all but adapters; moments stay at zero. Raises CheckpointDamaged, ForeignModel,
    ValueError (another model) and the store's errors."""
    weights = [shard for shard in optimiser.state() if shard.name.startswith(WEIGHTS) and not is_adapter(shard.name)]
    if isinstance(first, FirstWeights):
        restore(first.objects, open_store(first.storage), weights)
    else:
        ForeignFiles(first, open_store(first.storage)).fill(shape, weights, WEIGHTS)
