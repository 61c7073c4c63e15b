"""Pretrained: weights out of a Hugging Face folder, under our names. Reads safetensors only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tessera_trainer import foreign_config, hugging_face
from tessera_trainer.foreign_config import ForeignModel
from tessera_trainer.shape import ModelShape


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in `folder`. Raises ForeignModel, or OSError where there is none."""
    return foreign_config.shape_of((folder / foreign_config.CONFIGURATION).read_bytes())


def read_weights(folder: Path, shape: ModelShape) -> Iterator[tuple[str, Tensor]]:
    """(our name, whole tensor) of every parameter of `shape`, one in memory at a time.

    Raises ForeignModel where the folder has no such tensor or one of another size.
    """
    places = _places(folder)
    for entry in hugging_face.entries(shape):
        parts = []
        for name, rows in entry.theirs:
            if name not in places:
                raise ForeignModel(f"{folder.name} has no tensor {name}")
            with safe_open(places[name], framework="pt") as file:
                parts.append(file.get_tensor(name))
            if parts[-1].shape[0] != rows:
                raise ForeignModel(f"{name} has {parts[-1].shape[0]} rows, and should have {rows}")
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        yield entry.ours, weight.float() + entry.more if entry.more else weight


def _places(folder: Path) -> dict[str, Path]:
    """Which file each tensor is in."""
    index = folder / hugging_face.INDEX
    if index.exists():
        places = json.loads(index.read_bytes())["weight_map"]
        return {name: folder / file for name, file in places.items()}
    only = folder / hugging_face.ONE_FILE
    with safe_open(only, framework="pt") as file:
        return dict.fromkeys(file.keys(), only)
