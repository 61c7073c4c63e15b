"""Loss: cross entropy over the vocabulary, summed over tokens, with the logits never whole in memory.

Logits are made for a chunk of positions at a time, turned into that chunk's loss and gradients, and forgotten. The
loss is a sum, so its gradient is known up to one factor while the logits are there: the backward pass only multiplies,
nothing is computed twice, and the head's weight is not needed again (FSDP2 may let go of it).

What must stay true: chunks depend on the sizes alone and are summed in order, so that the same positions give the same
bits wherever they run. Memory: two float32 buffers of a chunk, and the head's gradient in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from tessera_trainer.micro_batch import IGNORED

_LOGITS = {"cpu": 2**22, "cuda": 2**27}
"""Elements of a chunk's logits: what a core's caches hold for a matrix product; what fills a GPU."""
_FEWEST_ROWS = 64


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """How many positions a chunk has."""
    return max(_FEWEST_ROWS, _LOGITS.get(device.type, _LOGITS["cpu"]) // vocabulary)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap); None: as they are."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def summed_loss(hidden: Tensor, head: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    """The sum of -log softmax(hidden head^T)[target] over positions whose target counts: a float32 scalar.

    hidden [N, width] and head [vocabulary, width] of one dtype; targets int64 [N], IGNORED where nothing is predicted;
    logits are `capped`.
    """
    return _SummedLoss.apply(hidden, head, targets, torch.is_grad_enabled(), cap)  # type: ignore[no-any-return]


class _SummedLoss(torch.autograd.Function):
    """The gradients are made in the forward pass, and scaled in place: a second backward pass raises RuntimeError."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, head: Tensor, targets: Tensor, trained: bool, cap: float | None
    ) -> Tensor:
        ctx.head_trained = ctx.needs_input_grad[1]  # type: ignore[attr-defined]
        chunks = _Chunks(hidden, head, trained, cap, head_trained=ctx.head_trained)  # type: ignore[attr-defined]
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        rows = chunk_rows(head.shape[0], hidden.device)
        for begin in range(0, hidden.shape[0], rows):
            span = slice(begin, begin + rows)
            losses[span] = chunks.take(span, targets[span])
        ctx.save_for_backward(chunks.hidden_gradient, chunks.head_gradient)
        return losses.sum()

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors  # type: ignore[attr-defined]
        dtype = hidden_gradient.dtype
        trained: bool = ctx.head_trained  # type: ignore[attr-defined]
        of_head = head_gradient.mul_(gradients[0]).to(dtype) if trained else None
        return hidden_gradient.mul_(gradients[0]), of_head, None, None, None


class _Chunks:
    """Takes chunk after chunk, and gathers their gradients. `trained` False: losses only."""

    def __init__(self, hidden: Tensor, head: Tensor, trained: bool, cap: float | None, *, head_trained: bool) -> None:
        self._hidden, self._head, self._trained, self._cap = hidden, head, trained, cap
        self._head_trained = head_trained
        rows = min(hidden.shape[0], chunk_rows(head.shape[0], hidden.device))
        self._logits = hidden.new_empty((rows, head.shape[0]))
        self._logs = hidden.new_empty((rows, head.shape[0]), dtype=torch.float32)
        self.hidden_gradient = torch.empty_like(hidden) if trained else hidden.new_empty(0)
        self.head_gradient = self._gradient_sum()
        self._minus_one = torch.full((1, 1), -1.0, device=hidden.device)

    def _gradient_sum(self) -> Tensor:
        """Zeros, or, where the first chunk's product overwrites it, nothing yet."""
        if not (self._trained and self._head_trained):
            return self._hidden.new_empty(0)
        make = torch.empty_like if self._head.dtype is torch.float32 else torch.zeros_like
        return make(self._head, dtype=torch.float32)

    def take(self, span: slice, targets: Tensor) -> Tensor:
        """The losses of the positions `span`, float32, 0 where the target is IGNORED."""
        hidden, count = self._hidden[span], targets.shape[0]
        logits, logs = self._logits[:count], self._logs[:count]
        torch.mm(hidden, self._head.t(), out=logits)
        if self._cap is not None:
            logits.copy_(capped(logits, self._cap))
        torch.log_softmax(logits, 1, dtype=torch.float32, out=logs)
        ignored = (targets == IGNORED)[:, None]
        chosen = targets.clamp_min(0)[:, None]
        losses = logs.gather(1, chosen).neg_().masked_fill_(ignored, 0.0).squeeze(1)
        if self._trained:
            slope = logs.exp_().scatter_add_(1, chosen, self._minus_one.expand(count, 1))
            if self._cap is not None:  # the slope of the cap itself, by what it made
                slope.mul_(1 - (logits.float() / self._cap).square_())
            self._gather(span, slope.to(hidden.dtype), ignored)
        return losses

    def _gather(self, span: slice, slope: Tensor, ignored: Tensor) -> None:
        """Ignored positions are blanked in the narrow factors, not in the wide slope: the products are the same."""
        torch.mm(slope, self._head, out=self.hidden_gradient[span])
        self.hidden_gradient[span].masked_fill_(ignored, 0.0)
        if not self._head_trained:
            return
        counted = self._hidden[span].masked_fill(ignored, 0.0)
        if self.head_gradient.dtype is slope.dtype:
            self.head_gradient.addmm_(slope.t(), counted, beta=0 if span.start == 0 else 1)
        else:
            self.head_gradient.add_(torch.mm(slope.t(), counted))
