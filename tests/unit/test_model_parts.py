"""The decoder's parts with gradients of their own: equal to the formulas that define them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tessera_trainer.gated import gated
from tessera_trainer.rms_norm import RmsNorm
from tessera_trainer.rope import rotate, rotations
from tessera_trainer.style import Activation, Rotation


def random(*sizes: int, seed: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def assert_same_function(ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], argument: Tensor) -> None:
    """Same values, and the same gradient in a random direction."""
    argument = argument.requires_grad_()
    found, expected = ours(argument), plain(argument)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    direction = random(*found.shape, seed=99)
    (gradient,) = torch.autograd.grad(found, argument, direction)
    (expected_gradient,) = torch.autograd.grad(expected, argument, direction)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_rms_norm_is_its_formula_for_rows_and_for_weights() -> None:
    norm, rows = RmsNorm(24, 1e-5), random(7, 24, seed=1)
    weight = random(24, seed=2)

    def plain(rows: Tensor, weight: Tensor) -> Tensor:
        return rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-5) * weight

    def with_weight(weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, (rows,))  # type: ignore[no-any-return]

    norm.weight.data.copy_(weight)
    assert_same_function(norm, lambda argument: plain(argument, weight), rows.clone())
    assert_same_function(with_weight, lambda argument: plain(rows, argument), weight.clone())


def test_gated_activations_are_their_formulas() -> None:
    both = random(7, 24, seed=1)
    assert_same_function(gated, lambda both: functional.silu(both[:, :12]) * both[:, 12:], both.clone())
    assert_same_function(
        lambda both: gated(both, Activation.GELU_TANH),
        lambda both: functional.gelu(both[:, :12], approximate="tanh") * both[:, 12:],
        both.clone(),
    )


def test_rotation_turns_element_i_with_element_i_plus_half_the_width() -> None:
    positions = torch.tensor([0, 1, 2, 0, 1])
    angles = positions[:, None] * torch.tensor([1.0, 100.0**-0.5])
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def plain(heads: Tensor) -> Tensor:
        turned = torch.complex(heads[..., :2], heads[..., 2:]) * turn
        return torch.cat((turned.real, turned.imag), dim=-1)

    turns = rotations(positions, 4, Rotation(100.0))
    assert_same_function(lambda heads: rotate(heads, *turns), plain, random(5, 3, 4, seed=1))
