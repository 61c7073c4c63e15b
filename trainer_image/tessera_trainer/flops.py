"""FLOPs: the arithmetic that training must do, counted by two conventions.

- **matmul**: what the matrix products of this model on these documents take. A token meets every weight of the blocks
  and the head (the look-up of an embedding is no arithmetic); a query meets the keys of its own document up to itself.
  Padding does not exist; recomputed activations do not count. This is the honest one.
- **6ND**: 6 x all parameters that a token meets x tokens, the rule of thumb of the scaling literature
  (arXiv 2001.08361), without attention and with look-ups: for comparison with figures published elsewhere.

A multiply-add is two FLOPs; a backward pass takes twice the forward pass. All are exact integers.
"""

from __future__ import annotations

from tessera_trainer.shape import ModelShape

_PASSES = 3
"""Forward, and twice that for the gradients of activations and of weights."""


def training_flops(
    shape: ModelShape, tokens: int, attention_pairs: int, predicting: int | None = None, adapter: int | None = None
) -> int:
    """Matmul FLOPs of training on `tokens` positions whose documents have `attention_pairs` (`MicroBatch`); of them
    `predicting` meet the head (None: all). `adapter`: its parameters, where nothing else is trained; then other weights
    have no gradients of their own."""
    head = shape.vocabulary * shape.hidden
    weights = 2 * ((shape.matmul_parameters - head) * tokens + head * (tokens if predicting is None else predicting))
    scores_and_mixing = 4 * shape.layers * shape.heads * shape.head_width * attention_pairs
    if adapter is None:
        return _PASSES * (weights + scores_and_mixing)
    return (_PASSES - 1) * weights + _PASSES * (scores_and_mixing + 2 * adapter * tokens)


def six_n_d(shape: ModelShape, tokens: int) -> int:
    """6 x parameters (active ones, where there are experts) x tokens."""
    return 6 * shape.active_parameters * tokens
