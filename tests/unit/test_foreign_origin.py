"""A model of others as the beginning of a run: pinned by the coordinator, read by rows, or refused with what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera_api.log import End
from tessera_api.resolved_run import (
    FirstWeights,
    ForeignWeights,
    ResolvedOrigin,
    ResolvedRun,
    read_first,
)
from tessera_api.run_directory import ORIGIN_NAME
from tessera_coordinator.origin import OriginUnfit, pin_origin
from tessera_store import ObjectMissing, Store, open_store
from tessera_trainer.foreign_config import ForeignModel
from tessera_trainer.foreign_weights import ForeignFiles
from tessera_trainer.origin import read_origin, shape_for
from tessera_trainer.pretrained import read_weights
from tessera_trainer.shards import Shard, rows_of
from tests.unit.operator_world import a_run, a_start
from tests.unit.test_families import CASES, VOCABULARY, reference
from tests.unit.test_origin import COMMIT, OPEN, train

TOKENIZER = b'{"a": "tokenizer"}'
RANKS = 3


@pytest.fixture(scope="module", params=["qwen-2", "gemma-2", "llama-3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("models") / request.param
    reference(*CASES[request.param]).save_pretrained(place, max_shard_size="60KB")
    (place / "tokenizer.json").write_bytes(TOKENIZER)
    return place


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """For a test that harms it."""
    place = tmp_path / "model"
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


@pytest.fixture
def own(tmp_path: Path) -> Store:
    return open_store((tmp_path / "own").as_uri())


def begun_with(model: Path, tokenizer: bytes = TOKENIZER) -> ResolvedRun:
    run = a_run(model={"from": {"uri": model.as_uri()}})
    start = a_start(run)
    sha = hashlib.sha256(tokenizer).hexdigest()
    datasets = {name: one.model_copy(update={"tokenizer_sha256": sha}) for name, one in start.datasets.items()}
    return start.model_copy(update={"datasets": datasets})


def test_the_operator_hands_the_folder_on(folder: Path) -> None:
    start = begun_with(folder)
    assert (start.origin, start.recipe) == (ResolvedOrigin(storage=folder.as_uri()), None)


def test_what_was_pinned_is_the_configuration_and_every_file(folder: Path, own: Store) -> None:
    pin_origin(own, begun_with(folder))

    first = read_first(own.get(ORIGIN_NAME))
    assert isinstance(first, ForeignWeights)
    assert first.configuration == (folder / "config.json").read_text()
    assert first.beside == {"generation_config.json": (folder / "generation_config.json").read_text()}
    assert [file.name for file in first.files] == sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("ranks", [1, RANKS])
def test_each_rank_fills_its_rows_with_what_the_whole_files_say(folder: Path, own: Store, ranks: int) -> None:
    pin_origin(own, begun_with(folder))
    first = read_origin(begun_with(folder), own)
    assert isinstance(first, ForeignWeights)
    shape = shape_for(begun_with(folder), first, VOCABULARY)
    whole = {name: weight.float() for name, weight in read_weights(folder, shape)}
    for rank in range(ranks):
        shards = []
        for name, weight in whole.items():
            rows = rows_of(weight.shape[0], ranks, rank)
            empty = torch.full((len(rows), *weight.shape[1:]), torch.nan)
            shards.append(Shard(f"weight/{name}", tuple(weight.shape), empty, rows))
        ForeignFiles(first, open_store(first.storage)).fill(shape, shards, "weight/")

        for shard in shards:
            expected = whole[shard.name.removeprefix("weight/")][shard.rows.start : shard.rows.stop]
            assert torch.equal(shard.local, expected), shard.name


def test_rows_are_of_the_runs_length_and_the_model_keeps_its_own_word(folder: Path, own: Store) -> None:
    pin_origin(own, begun_with(folder))
    shape = shape_for(begun_with(folder), read_origin(begun_with(folder), own), VOCABULARY - 1)
    assert (shape.sequence_length, shape.positions, shape.vocabulary) == (128, 96, VOCABULARY)


def test_a_tokenizer_with_more_tokens_than_the_model_has_is_refused(folder: Path, own: Store) -> None:
    pin_origin(own, begun_with(folder))
    with pytest.raises(ForeignModel, match="the tokenizer knows 161 tokens, and the model 160"):
        shape_for(begun_with(folder), read_origin(begun_with(folder), own), VOCABULARY + 1)


def without(name: str) -> Callable[[Path], object]:
    return lambda place: (place / name).unlink()


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda place: (place / name).write_text(text)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (without("config.json"), "has no config.json: name the folder that save_pretrained wrote"),
        (without("tokenizer.json"), "has no tokenizer.json"),
        (written("config.json", "no"), "config.json of .* is no JSON"),
        (written("config.json", "[]"), "names no model_type"),
        (written("model.safetensors.index.json", "[]"), "is no index of tensors"),
        (without("model.safetensors.index.json"), "model.safetensors of .* cannot be read: .*safetensors alone"),
        (lambda place: min(place.glob("*.safetensors")).write_text("short"), "is no file of safetensors"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_before_anything_is_computed(
    copied: Path, own: Store, harm: Callable[[Path], object], words: str
) -> None:
    harm(copied)
    with pytest.raises(OriginUnfit, match=words):
        pin_origin(own, begun_with(copied))
    with pytest.raises(ObjectMissing):
        own.get(ORIGIN_NAME)


def test_data_of_another_tokenizer_is_refused_with_what_to_do(folder: Path, own: Store) -> None:
    with pytest.raises(OriginUnfit, match=r"dataset stdlib was built with tokenizer .*build it with that one"):
        pin_origin(own, begun_with(folder, b"another"))


def changed(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = sorted(place.glob("*.safetensors"))[0]
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.update(extra=torch.ones(3)), "nobody here knows 1 of the tensors, extra the first"),
        (lambda tensors: tensors.pop(min(tensors)), "1 tensors are missing, "),
        (
            lambda tensors: tensors.update({min(tensors): torch.ones(3, dtype=torch.int8)}),
            "has numbers of type I8; they must be F64, F32, F16, BF16",
        ),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(
    copied: Path, own: Store, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    changed(copied, change)
    pin_origin(own, begun_with(copied))
    first = read_origin(begun_with(copied), own)
    assert isinstance(first, ForeignWeights)
    with pytest.raises(ForeignModel, match=words):
        ForeignFiles(first, open_store(first.storage)).fill(shape_for(begun_with(copied), first, VOCABULARY), [], "")


def test_a_file_that_was_replaced_later_is_not_read(copied: Path, own: Store) -> None:
    pin_origin(own, begun_with(copied))
    changed(copied, lambda tensors: tensors.update(extra=torch.ones(3)))
    first = read_origin(begun_with(copied), own)
    assert isinstance(first, ForeignWeights)
    with pytest.raises(ForeignModel, match="is not the file any more that the run began with"):
        ForeignFiles(first, open_store(first.storage))


def test_a_run_that_starts_from_such_a_run_has_its_shape(folder: Path, own: Store, tmp_path: Path) -> None:
    pin_origin(own, begun_with(folder))
    train(own, OPEN, COMMIT, End(term=1, reason="complete", message="done", time=0.0))
    third = open_store((tmp_path / "third").as_uri())
    chained = a_start().model_copy(update={"origin": ResolvedOrigin(run="base", storage=own.uri), "recipe": None})
    pin_origin(third, chained)

    first = read_origin(chained, third)
    assert isinstance(first, FirstWeights)
    assert shape_for(chained, first, VOCABULARY) == shape_for(chained, read_origin(begun_with(folder), own), VOCABULARY)
