"""A model of others that first weights come from: looked at once, and kept in this run's storage as it was.

What must stay true: every rank of every start reads the same tensors of the same files, or none; what can be known to
be wrong without reading gigabytes is said before a node computes anything.
"""

from __future__ import annotations

import hashlib
import json

from tessera_api.resolved_run import MAX_BESIDE_BYTES, ForeignFile, ForeignWeights, ResolvedRun
from tessera_store import ObjectMissing, Store, open_store

CONFIGURATION, TOKENIZER = "config.json", "tokenizer.json"
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
BESIDE = (
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json"),
    *("special_tokens_map.json", "tokenizer_config.json"),
)
"""What says how the model is to be used; there or not."""
MAX_HEADER_BYTES = 100 << 20
_LENGTH_BYTES = 8


class ForeignUnfit(Exception):
    """The folder holds no model that this run could begin with."""


def foreign_weights(resolved: ResolvedRun) -> ForeignWeights:
    """What `origin.json` is to say. Raises ForeignUnfit, StoreError."""
    assert resolved.origin is not None
    uri = resolved.origin.storage
    store = open_store(uri)
    configuration = _text(store, uri, CONFIGURATION)
    tokenizer = hashlib.sha256(_bytes(store, uri, TOKENIZER)).hexdigest()
    for name, dataset in resolved.datasets.items():
        if dataset.tokenizer_sha256 != tokenizer:
            raise ForeignUnfit(
                f"dataset {name} was built with tokenizer {dataset.tokenizer_sha256[:12]}, {TOKENIZER} of {uri} is"
                f" {tokenizer[:12]}: build it with that one (spec.tokenizer.uri and sha256)"
            )
    files = tuple(_file(store, uri, name) for name in _names(store, uri))
    return ForeignWeights(storage=uri, configuration=configuration, beside=_beside(store, uri), files=files)


def _beside(store: Store, uri: str) -> dict[str, str]:
    found = {}
    for name in BESIDE:
        try:
            size = store.size(name)
            if size > MAX_BESIDE_BYTES:
                raise ForeignUnfit(f"{name} of {uri} has {size} bytes; it may have {MAX_BESIDE_BYTES}")
            found[name] = store.get(name).decode()
        except ObjectMissing:
            continue
        except UnicodeDecodeError as error:
            raise ForeignUnfit(f"{name} of {uri} is no text: {error}") from error
    return found


def _names(store: Store, uri: str) -> list[str]:
    try:
        index = json.loads(store.get(INDEX))
        names = sorted(set(index["weight_map"].values()))
    except ObjectMissing:
        return [ONE_FILE]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ForeignUnfit(f"{INDEX} of {uri} is no index of tensors: {error!r}") from error
    if not names or not all(isinstance(name, str) for name in names):
        raise ForeignUnfit(f"{INDEX} of {uri} names no files")
    return names


def _file(store: Store, uri: str, name: str) -> ForeignFile:
    try:
        size = store.size(name)
        length = int.from_bytes(store.get_range(name, 0, _LENGTH_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise ForeignUnfit(f"{name} of {uri} is no file of safetensors")
        header = store.get_range(name, _LENGTH_BYTES, length)
    except (ObjectMissing, ValueError) as error:
        raise ForeignUnfit(f"{name} of {uri} cannot be read: {error}; weights come as safetensors alone") from error
    return ForeignFile(name=name, size=size, header_sha256=hashlib.sha256(header).hexdigest())


def _text(store: Store, uri: str, name: str) -> str:
    data = _bytes(store, uri, name)
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ForeignUnfit(f"{name} of {uri} is no JSON: {error}") from error
    if not isinstance(document, dict) or "model_type" not in document:
        raise ForeignUnfit(f"{name} of {uri} names no model_type")
    return data.decode()


def _bytes(store: Store, uri: str, name: str) -> bytes:
    try:
        return store.get(name)
    except ObjectMissing as error:
        raise ForeignUnfit(f"{uri} has no {name}: name the folder that save_pretrained wrote") from error
