"""Export: a folder that `transformers` loads: weights (safetensors), configuration, tokenizer.

What must stay true: the folder is there whole or not at all (written beside its place, synced, renamed); no more is in
memory than one file's tensors (`limit_bytes`), whatever the size of the model. No pickle. Two may write at once (an
older generation's that was paused, and a newer one's): each has a folder of its own until it is whole, and the one that
comes later takes away what it finds beside it, be it a killed export's or a paused one's.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from tessera_api.resolved_run import FirstWeights, ForeignWeights
from tessera_trainer import foreign_config, hugging_face
from tessera_trainer.shape import ModelShape

_LIMIT_BYTES = 4 * 2**30


class IncompleteWeights(ValueError):
    """The weights given are not those of the shape: the message names what is missing, unknown or of another size."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer as `tokenizers` writes it, the token that ends a document, and what says how both are used."""

    json: bytes
    end_of_text: int
    original: FirstWeights | ForeignWeights | None = None
    """The model of others that the run began with: its chat template and settings of tokenizer and generation stay."""


def export(
    folder: Path,
    shape: ModelShape,
    weights: Iterable[tuple[str, Tensor]],
    tokenizer: TokenizerFile,
    dtype: torch.dtype = torch.float32,
    limit_bytes: int = _LIMIT_BYTES,
) -> None:
    """Write the model to `folder`, in the place of an earlier export if there is one.

    `weights` are (our name, whole tensor) in any order, each held only until its file is written; with FSDP2 that is
    `((name, parameter.full_tensor()) for ...)`, which all ranks must run through and one exports. Raises
    IncompleteWeights, and OSError where the disk refuses; the folder is then as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir()
    _write_weights(partial, shape, weights, dtype, limit_bytes)
    original = tokenizer.original
    told = original.configuration if original is not None else None
    configuration = foreign_config.configuration(shape, dtype, tokenizer.end_of_text, told)
    _write_json(partial / foreign_config.CONFIGURATION, configuration)
    _write_json(partial / hugging_face.GENERATION, hugging_face.generation(tokenizer.end_of_text))
    _write_tokenizer(partial, tokenizer, shape.sequence_length)
    for name, text in (original.beside if original is not None else {}).items():
        (partial / Path(name).name).write_bytes(text.encode())
    for file in sorted(partial.iterdir()):
        sync(file)
    sync(partial)
    _put_in_place(partial, folder)


def _write_weights(
    folder: Path, shape: ModelShape, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype, limit_bytes: int
) -> None:
    """One file, or numbered ones with an index; their count is known last, so that they are named last."""
    files: list[list[str]] = []
    total = 0
    for place, tensors in enumerate(_files(_their_tensors(shape, weights, dtype), limit_bytes)):
        save_file(tensors, folder / f"{place}.part", metadata={"format": "pt"})
        files.append(list(tensors))
        total += sum(map(_bytes, tensors.values()))
    names = [hugging_face.ONE_FILE]
    if len(files) > 1:
        names = [f"model-{place + 1:05d}-of-{len(files):05d}.safetensors" for place in range(len(files))]
        places = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        _write_json(folder / hugging_face.INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    for place, name in enumerate(names):
        (folder / f"{place}.part").rename(folder / name)


def _files(tensors: Iterator[tuple[str, Tensor]], limit_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Tensors in files of at most `limit_bytes`; a larger tensor has a file of its own."""
    held: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if held and sum(map(_bytes, held.values())) + _bytes(tensor) > limit_bytes:
            yield held
            held = {}
        held[name] = tensor
    yield held


def _their_tensors(
    shape: ModelShape, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Each of our weights, cut into theirs, on the CPU in `dtype`."""
    expected = {entry.ours: entry for entry in hugging_face.entries(shape)}
    for name, weight in weights:
        entry = expected.pop(name, None)
        if entry is None:
            raise IncompleteWeights(f"{name} is no weight of this model, or came twice")
        theirs = entry.theirs
        rows = sum(count for _, count in theirs)
        if weight.shape[0] != rows:
            raise IncompleteWeights(f"{name} has {weight.shape[0]} rows, and should have {rows}")
        parts = torch.split(weight.detach(), [count for _, count in theirs])
        for (their_name, _), part in zip(theirs, parts, strict=True):
            told = part.to("cpu", copy=True) - entry.more if entry.more else part
            yield their_name, told.to("cpu", dtype, copy=True).contiguous()
    if expected:
        raise IncompleteWeights(f"{len(expected)} weights are missing, {min(expected)} the first of them")


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write_tokenizer(folder: Path, tokenizer: TokenizerFile, longest: int) -> None:
    """`tokenizer.json` to the byte, and what `transformers` wants said beside it."""
    end = Tokenizer.from_buffer(tokenizer.json).id_to_token(tokenizer.end_of_text)
    if end is None:
        raise IncompleteWeights(f"the tokenizer has no token {tokenizer.end_of_text}, which ends documents")
    (folder / "tokenizer.json").write_bytes(tokenizer.json)
    special = {"eos_token": end, "pad_token": end}
    _write_json(folder / "special_tokens_map.json", special)
    settings = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(folder / "tokenizer_config.json", special | settings)


def _write_json(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def sync(path: Path) -> None:
    """What was written there, or into this folder, survives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename; an earlier export steps aside first (a folder cannot be replaced in one act) and is removed after."""
    earlier = folder.with_name(f"{partial.name}.earlier")
    if folder.exists():
        folder.rename(earlier)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(earlier, ignore_errors=True)
