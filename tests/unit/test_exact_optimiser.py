"""Norm, optimiser and digest: numbers that do not depend on where in a shard they lie."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tessera_trainer import fsdp_edges
from tessera_trainer.digest import numbers_digest, state_digest
from tessera_trainer.exact import sum_exactly
from tessera_trainer.norm import canonical_norm, halving_sum
from tessera_trainer.optimiser import AdamW, AdamWSettings, Update
from tessera_trainer.shards import Shard, rows_of


@pytest.fixture(scope="module")
def alone() -> Iterator[dist.ProcessGroup]:
    """A group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group = dist.group.WORLD
    assert group is not None
    yield group
    dist.destroy_process_group()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model_of(*weights: Tensor) -> nn.Module:
    return nn.ParameterList([nn.Parameter(weight.clone()) for weight in weights])


def trained(weight: Tensor, group: dist.ProcessGroup, gradients: Tensor, steps: int = 4) -> list[Tensor]:
    """Weight and moments after some steps with the same gradient, unclipped."""
    model = model_of(weight)
    optimiser = AdamW(model, AdamWSettings(max_norm=math.inf), group)
    for step in range(steps):
        next(model.parameters()).grad = gradients * (step + 1)
        optimiser.step(1e-3)
    return [shard.local for shard in optimiser.state()]


@given(st.integers(0, 300), st.integers(1, 40))
def test_rows_partition_a_tensor(rows: int, ranks: int) -> None:
    assert [row for rank in range(ranks) for row in rows_of(rows, ranks, rank)] == list(range(rows))


@pytest.mark.parametrize(("rows", "ranks"), [(10, 4), (3, 5), (203, 6), (1, 2)])
def test_rows_are_cut_as_torch_cuts_them(rows: int, ranks: int) -> None:
    cut = [len(chunk) for chunk in torch.arange(rows).chunk(ranks)]
    assert [len(rows_of(rows, ranks, rank)) for rank in range(ranks)] == cut + [0] * (ranks - len(cut))


@pytest.mark.parametrize("width", [1, 2, 3, 255, 256, 690])
def test_a_row_has_one_sum_whatever_rows_are_beside_it(width: int) -> None:
    rows = random(67, width)
    whole = halving_sum(rows)
    assert all(torch.equal(halving_sum(rows[start::3]), whole[start::3]) for start in range(3))
    assert torch.allclose(whole, rows.sum(1), atol=1e-4)


def test_the_sum_of_nothing_is_nought() -> None:
    assert halving_sum(torch.zeros(3, 0)).tolist() == [0.0, 0.0, 0.0]


def test_the_norm_is_the_euclidean_one(alone: dist.ProcessGroup) -> None:
    tensors = [random(5, 7), random(3), random(2, 3, 4)]
    shards = [Shard(str(place), tuple(one.shape), one, range(len(one))) for place, one in enumerate(tensors)]
    expected = torch.cat([one.flatten() for one in tensors]).norm().item()
    assert canonical_norm(shards, alone) == pytest.approx(expected, rel=1e-6)


def test_an_update_does_not_depend_on_where_a_number_lies(alone: dist.ProcessGroup) -> None:
    weight, gradient = random(1031), random(1031, seed=1)
    whole = trained(weight, alone, gradient)
    for first in range(0, 40, 3):
        for length in (1, 3, 7, 8, 15, 16, 17, 33, 100, 900):
            part = trained(weight[first : first + length], alone, gradient[first : first + length])
            assert all(torch.equal(p, w[first : first + length]) for p, w in zip(part, whole, strict=True))


def test_an_update_is_that_of_torch(alone: dist.ProcessGroup) -> None:
    weight, gradient = random(31, 8), random(31, 8, seed=1)
    reference = nn.Parameter(weight.clone())
    theirs = torch.optim.AdamW([reference], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=True)
    for step in range(4):
        reference.grad = gradient * (step + 1)
        theirs.step()
    ours = trained(weight, alone, gradient)[0]
    assert torch.allclose(ours, reference.detach(), rtol=1e-6, atol=1e-7)


def test_only_matrices_decay(alone: dist.ProcessGroup) -> None:
    model = model_of(torch.ones(2, 2), torch.ones(2))
    optimiser = AdamW(model, AdamWSettings(weight_decay=0.5), alone)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step(0.1)
    assert [shard.local.flatten().tolist() for shard in optimiser.weights()] == [
        pytest.approx([0.95] * 4),
        [1.0, 1.0],
    ]


def test_large_gradients_are_scaled_down_to_the_limit(alone: dist.ProcessGroup) -> None:
    model = model_of(torch.zeros(2))
    optimiser = AdamW(model, AdamWSettings(max_norm=1.0), alone)
    next(model.parameters()).grad = torch.tensor([30.0, 40.0])
    update = optimiser.step(1e-3)
    moments = [shard.local for shard in optimiser.state() if shard.name == "exp_avg/0"]
    assert update == Update(50.0, applied=True)
    assert torch.allclose(moments[0], torch.tensor([0.06, 0.08]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_told_and_changes_nothing(alone: dist.ProcessGroup, wrong: float) -> None:
    model = model_of(random(4, 2))
    optimiser = AdamW(model, AdamWSettings(), alone)
    before = state_digest(optimiser.state(), alone)
    gradient = random(4, 2, seed=1)
    gradient[2, 1] = wrong
    next(model.parameters()).grad = gradient
    update = optimiser.step(1e-3)
    assert not update.applied
    assert not math.isfinite(update.norm)
    assert (state_digest(optimiser.state(), alone), optimiser.updates) == (before, 0)


def test_a_parameter_without_gradient_is_named(alone: dist.ProcessGroup) -> None:
    with pytest.raises(ValueError, match="parameter 0 got no gradient"):
        AdamW(model_of(random(2)), AdamWSettings(), alone).step(1e-3)


def test_the_digest_notices_one_bit(alone: dist.ProcessGroup) -> None:
    tensor = random(3, 2)
    one = state_digest([Shard("a", (3, 2), tensor, range(3))], alone)
    tensor[2, 1] = math.nextafter(tensor[2, 1].item(), math.inf) + 1e-7
    assert state_digest([Shard("a", (3, 2), tensor, range(3))], alone) != one


def test_the_digest_of_numbers_is_of_their_exact_values() -> None:
    assert numbers_digest([0.1 + 0.2]) != numbers_digest([0.3])


def test_a_sum_of_losses_has_no_order_and_hides_nothing() -> None:
    losses = [1e16, 1.0, -1e16, 3.5]
    assert sum_exactly(losses) == sum_exactly(losses[::-1]) == 4.5
    assert math.isnan(sum_exactly([1.0, math.nan]))


def test_this_torch_has_what_exact_mode_needs() -> None:
    fsdp_edges.require()


def test_a_torch_without_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FSDPModule, "set_custom_reduce_scatter")
    with pytest.raises(
        fsdp_edges.TorchEdgeMissing, match=rf"torch {re.escape(torch.__version__)}.*written for torch 2.15"
    ):
        fsdp_edges.require()
