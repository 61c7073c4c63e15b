"""First weights: from the seed and the name alone, whoever draws them and however many rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tessera_trainer.initialise import _fill, initialise
from tessera_trainer.model import Decoder
from tessera_trainer.shape import ModelShape


def shape(*, tied: bool = True) -> ModelShape:
    return ModelShape(
        vocabulary=1003,
        sequence_length=16,
        hidden=32,
        layers=2,
        heads=4,
        kv_heads=2,
        ffn=300,
        rope_theta=1e4,
        tied=tied,
    )


def initialised(seed: int, *, tied: bool = True) -> dict[str, Tensor]:
    model = Decoder(shape(tied=tied)).to_empty(device="cpu")
    initialise(model, seed)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_a_model_on_the_meta_device_has_its_shape_and_no_memory() -> None:
    for tied in (True, False):
        model = Decoder(shape(tied=tied))
        assert all(parameter.is_meta for parameter in model.parameters())
        assert sum(parameter.numel() for parameter in model.parameters()) == model.shape.parameters
        assert list(model.buffers()) == []


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again, other = initialised(7), initialised(7), initialised(8)
    matrices = [name for name, weight in first.items() if weight.dim() == 2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    assert len({first[name].flatten()[0].item() for name in matrices}) == len(matrices)


def test_rows_drawn_by_several_owners_are_the_rows_drawn_by_one() -> None:
    whole = initialised(7)["embedding.weight"]
    for owners in (2, 3, 7):
        each = -(-1003 // owners)
        parts = [torch.empty(min(each, 1003 - first), 32) for first in range(0, 1003, each)]
        for place, part in enumerate(parts):
            _fill(part, "embedding.weight", 7, place * each, whole.shape, 0.02)
        assert torch.equal(torch.cat(parts), whole)


def test_weights_that_write_into_the_stream_are_smaller_by_the_depth() -> None:
    deviations = {name: weight.std().item() for name, weight in initialised(7).items() if weight.dim() == 2}
    expected = {name: 0.01 if name.endswith(("output.weight", "down.weight")) else 0.02 for name in deviations}
    assert deviations.keys() == expected.keys()
    assert all(abs(deviations[name] / expected[name] - 1) < 0.05 for name in expected)


def test_norms_begin_as_one() -> None:
    assert all(torch.equal(weight, torch.ones(32)) for name, weight in initialised(7).items() if "norm" in name)
