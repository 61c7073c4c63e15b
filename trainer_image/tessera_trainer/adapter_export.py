"""The adapter by itself, as PEFT reads it: `adapter_model.safetensors` and `adapter_config.json`.

What must stay true: the folder is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tessera_trainer import hugging_face
from tessera_trainer.adapter import Adapter, Pair
from tessera_trainer.export import sync
from tessera_trainer.shape import ModelShape

FOLDER = "adapter"
"""Inside an export."""
_BEFORE = "base_model.model."
"""PEFT's name for the model around which it lies."""


def export_adapter(export: Path, shape: ModelShape, pairs: Mapping[str, Pair], base: str) -> None:
    """Write the adapters of all layers (`adapter.merged` found them) into an export that there is. `base`: where the
    model lies that they belong to. Raises OSError."""
    theirs = {entry.ours: entry.theirs for entry in hugging_face.entries(shape)}
    tensors: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        for (name, _), (down, up) in zip(theirs[f"{layer}.weight"], pair.matrices(), strict=True):
            stem = _BEFORE + name.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"] = down.contiguous()
            tensors[f"{stem}.lora_B.weight"] = up.contiguous()
    partial = export / f".{FOLDER}.{secrets.token_hex(4)}"
    partial.mkdir()
    save_file(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    adapter = next(iter(pairs.values())).adapter
    document = _configuration(adapter, {name.split(".")[-3] for name in tensors}, base)
    (partial / "adapter_config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    for path in (*partial.iterdir(), partial):
        sync(path)
    shutil.rmtree(export / FOLDER, ignore_errors=True)
    os.replace(partial, export / FOLDER)
    sync(export)


def _configuration(adapter: Adapter, modules: set[str], base: str) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(adapter.alpha) if adapter.alpha.is_integer() else adapter.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
    }
