"""The loss over chunks of positions: equal to the loss over whole logits, which never exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tessera_trainer import loss as loss_module
from tessera_trainer.loss import chunk_rows, summed_loss
from tessera_trainer.micro_batch import IGNORED

POSITIONS, WIDTH, VOCABULARY = 700, 8, 20_000


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation's result had."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements = max(
            [self.elements, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))]
        )
        return result


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator)
    targets[::7] = IGNORED
    return hidden, head, targets


def plain_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = functional.linear(hidden, head).float()
    return functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_loss_and_gradients_equal_those_of_whole_logits(dtype: torch.dtype, tolerance: float) -> None:
    hidden, head, targets = problem(dtype)
    assert 1 < POSITIONS / chunk_rows(VOCABULARY, hidden.device) < POSITIONS

    found, expected = summed_loss(hidden, head, targets), plain_loss(hidden, head, targets)

    torch.testing.assert_close(found, expected, rtol=1e-2 * tolerance + 1e-6, atol=0)
    gradients = torch.autograd.grad(found / 600, (hidden, head))
    for gradient, plain in zip(gradients, torch.autograd.grad(expected / 600, (hidden, head)), strict=True):
        torch.testing.assert_close(gradient, plain, rtol=tolerance, atol=tolerance * plain.abs().max().item())


def test_no_tensor_is_larger_than_a_chunk_of_logits() -> None:
    hidden, head, targets = problem()
    with LargestTensor() as largest:
        torch.autograd.backward(summed_loss(hidden, head, targets))
    chunk = chunk_rows(VOCABULARY, hidden.device) * VOCABULARY
    assert largest.elements == chunk
    assert chunk <= max(loss_module._LOGITS["cpu"], loss_module._FEWEST_ROWS * VOCABULARY) < POSITIONS * VOCABULARY


def test_without_gradients_the_loss_has_the_same_bits_and_makes_none() -> None:
    hidden, head, targets = problem()
    trained = summed_loss(hidden, head, targets)
    with torch.no_grad():
        evaluated = summed_loss(hidden, head, targets)
    assert torch.equal(trained.detach(), evaluated)
    assert not evaluated.requires_grad


def test_a_second_backward_pass_is_refused_and_not_wrong() -> None:
    hidden, head, targets = problem()
    loss = summed_loss(hidden, head, targets) * 0.5
    torch.autograd.backward(loss, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)


def test_positions_that_predict_nothing_add_nothing() -> None:
    hidden, head, targets = problem()
    (gradient,) = torch.autograd.grad(summed_loss(hidden, head, targets), hidden)
    assert torch.equal(gradient.abs().sum(1) == 0, targets == IGNORED)
