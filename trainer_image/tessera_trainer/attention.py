"""Attention: causal, and never across a document's border. One function; the device and dtype choose the path.

- CPU: PyTorch's fused attention document by document. The work is the sum of L^2 / 2 over documents, where a mask over
  a whole row would cost T^2, and a document's bits do not depend on its neighbours. It is an operator of its own, so
  that a compiled block neither looks inside nor is specialised to the lengths.
- CUDA, bf16 or fp16: PyTorch's `varlen_attn` (cuDNN or FlashAttention) over the offsets, one launch.
- CUDA, fp32: fused attention document by document under autograd. Correct and slow: fp32 is for comparisons.
- Capped scores (Gemma 2), everywhere: by hand, document by document, computed again for the gradient. No fused kernel
  of PyTorch's takes them.

`benchmarks/gpu.py` holds the bf16 path against float32 by hand, and looks whether it repeats its bits (gradients do
under `torch.use_deterministic_algorithms` alone, see `parallel`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn


@dataclass(frozen=True)
class Scores:
    """How scores are made of queries and keys."""

    scale: float | None = None
    """None: 1 / sqrt(width)."""
    window: int = 0
    """A position sees so many, itself among them; 0: all before it."""
    cap: float = 0.0
    """Scores s become cap * tanh(s / cap); 0: they stay."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, longest: int, scores: Scores = Scores()
) -> Tensor:
    """Attend inside each document: query [N, heads, width], key and value [N, kv_heads, width] -> [N, heads, width].

    `offsets` int32 [documents + 1] are the documents' borders (`MicroBatch`), on the device of `query`; no document is
    longer than `longest`. Query head h reads key head h // (heads / kv_heads).
    """
    scale, window = scores.scale, scores.window
    if scores.cap:
        capped = _capped(query, key, value, offsets, [scale or query.shape[-1] ** -0.5, float(window), scores.cap])
        return cast(Tensor, capped)
    if not query.is_cuda:
        output, _ = _by_document(query, key, value, offsets, scale, window)
        return cast(Tensor, output)
    if query.dtype is torch.float32:
        return _by_document_under_autograd(query, key, value, offsets, scores)
    seen = (window - 1 if window else -1, 0)
    mixed = varlen_attn(
        *(query, key, value, offsets, offsets, longest, longest), scale=scale, window_size=seen, enable_gqa=True
    )
    return cast(Tensor, mixed)


def _unseen(length: int, window: int, like: Tensor) -> Tensor:
    """[length, length]: -inf where a row's position does not see a column's, 0 where it does; in the dtype of
    `like`."""
    rows = torch.arange(length, device=like.device)
    apart = rows[:, None] - rows[None, :]
    seen = (apart >= 0) & (apart < window) if window else apart >= 0
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill_(~seen, -torch.inf)


def _mask(span: slice, window: int, like: Tensor) -> Tensor | None:
    """None where a document is no longer than its window: then the causal path of the kernel will do."""
    length = span.stop - span.start
    return _unseen(length, window, like) if window and length > window else None


def _spans(offsets: Tensor) -> list[slice]:
    """The documents, without those of no length that pad the offsets."""
    borders = offsets.tolist()
    return [slice(begin, end) for begin, end in itertools.pairwise(borders) if begin < end]


def _by_document_under_autograd(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, scores: Scores) -> Tensor:
    parts = []
    for span in _spans(offsets):
        heads = [part[span].transpose(0, 1)[None] for part in (query, key, value)]
        mask = _mask(span, scores.window, query)
        mixed = functional.scaled_dot_product_attention(
            heads[0], heads[1], heads[2], attn_mask=mask, is_causal=mask is None, scale=scores.scale, enable_gqa=True
        )
        parts.append(mixed[0].transpose(0, 1))
    return torch.cat(parts)


def _grouped(heads: Tensor, kv_heads: int) -> Tensor:
    """[L, heads, width] -> [kv_heads, group, L, width], a view: key heads take the place of the batch."""
    length, count, width = heads.shape
    return heads.view(length, kv_heads, count // kv_heads, width).permute(1, 2, 0, 3)


def _shared(heads: Tensor, group: int) -> Tensor:
    """[L, kv_heads, width] -> [kv_heads, group, L, width], a view: each head stands for its whole group."""
    return heads.permute(1, 0, 2)[:, None].expand(-1, group, -1, -1)


@torch.library.custom_op("tessera::attention_by_document", mutates_args=(), device_types="cpu")
def _by_document(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, scale: float | None, window: int
) -> tuple[Tensor, Tensor]:
    """The output [N, heads, width], and the logs of the softmax's sums [kv_heads, group, N] for the gradient."""
    output, log_sums = _by_document_shapes(query, key, value, offsets, scale, window)
    kv_heads, group, _ = log_sums.shape
    queries, keys, values = _grouped(query, kv_heads), _shared(key, group), _shared(value, group)
    outputs = _grouped(output, kv_heads)
    for span in _spans(offsets):
        outputs[:, :, span], log_sums[:, :, span] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(
                queries[:, :, span],
                keys[:, :, span],
                values[:, :, span],
                0.0,
                (mask := _mask(span, window, query)) is None,
            ),
            attn_mask=mask,
            scale=scale,
        )
    return output, log_sums


@_by_document.register_fake
def _by_document_shapes(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, scale: float | None, window: int
) -> tuple[Tensor, Tensor]:
    length, heads, _ = query.shape
    kv_heads = key.shape[1]
    log_sums = query.new_empty((kv_heads, heads // kv_heads, length), dtype=torch.float32)
    return query.new_empty(query.shape), log_sums


@torch.library.custom_op("tessera::attention_by_document_gradient", mutates_args=(), device_types="cpu")
def _by_document_gradient(
    gradient: Tensor, heads: list[Tensor], log_sums: Tensor, offsets: Tensor, scale: float | None, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from `heads`: these three and the output.

    Those of a key head are the sum over its group, in the group's order.
    """
    query, key, value, output = heads
    kv_heads, group, length = log_sums.shape
    of_query = query.new_empty(query.shape)
    of_queries = _grouped(of_query, kv_heads)
    of_shared = key.new_empty((2, length, kv_heads, group, key.shape[-1]))
    of_keys, of_values = of_shared.permute(0, 2, 3, 1, 4)
    gradients, queries, outputs = (_grouped(part, kv_heads) for part in (gradient, query, output))
    keys, values = _shared(key, group), _shared(value, group)
    for span in _spans(offsets):
        parts = (part[:, :, span] for part in (gradients, queries, keys, values, outputs, log_sums))
        of_queries[:, :, span], of_keys[:, :, span], of_values[:, :, span] = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(*parts, 0.0, (mask := _mask(span, window, query)) is None), attn_mask=mask, scale=scale
            )
        )
    return of_query, of_shared[0].sum(2), of_shared[1].sum(2)


@_by_document_gradient.register_fake
def _by_document_gradient_shapes(
    gradient: Tensor, heads: list[Tensor], log_sums: Tensor, offsets: Tensor, scale: float | None, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value, _ = heads
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(
    ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, Tensor, float | None, int], output: tuple[Tensor, Tensor]
) -> None:
    query, key, value, offsets, *ctx.scores = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(query, key, value, *output, offsets)


def _differentiate(ctx: FunctionCtx, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *heads, log_sums, offsets = ctx.saved_tensors  # type: ignore[attr-defined]
    scores = ctx.scores  # type: ignore[attr-defined]
    return *_by_document_gradient(gradient.contiguous(), heads, log_sums, offsets, *scores), None, None, None


_by_document.register_autograd(_differentiate, setup_context=_keep)


def _capped_probabilities(query: Tensor, keys: Tensor, numbers: list[float]) -> tuple[Tensor, Tensor]:
    """Of one document, query [heads, L, width] and keys [heads, L, width]: [heads, L, L] in float32, and the slope of
    the cap. `numbers`: scale, window, cap."""
    scale, window, cap = numbers
    bent = torch.tanh((query @ keys.transpose(1, 2)).float() * (scale / cap))
    unseen = _unseen(query.shape[1], int(window), bent)
    return (bent * cap + unseen).softmax(-1), 1 - bent.square()


def _by_head(part: Tensor, group: int = 1) -> Tensor:
    """[L, heads, width] -> [heads x group, L, width]: each head stands for its group."""
    return part.transpose(0, 1).repeat_interleave(group, dim=0)


@torch.library.custom_op("tessera::capped_attention", mutates_args=())
def _capped(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, numbers: list[float]) -> Tensor:
    """[N, heads, width]."""
    output, group = torch.empty_like(query), query.shape[1] // key.shape[1]
    for span in _spans(offsets):
        shares, _ = _capped_probabilities(_by_head(query[span]), _by_head(key[span], group), numbers)
        output[span] = (shares.to(query.dtype) @ _by_head(value[span], group)).transpose(0, 1)
    return output


@_capped.register_fake
def _capped_shapes(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, numbers: list[float]) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("tessera::capped_attention_gradient", mutates_args=())
def _capped_gradient(
    gradient: Tensor, heads: list[Tensor], offsets: Tensor, numbers: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, which are `heads`; those of a key head are the sum over its group."""
    of_query, of_key, of_value = found = tuple(torch.empty_like(part) for part in heads)
    count, group = heads[1].shape[1], heads[0].shape[1] // heads[1].shape[1]
    for span in _spans(offsets):
        slope, query = _by_head(gradient[span]), _by_head(heads[0][span])
        keys, values = (_by_head(part[span], group) for part in heads[1:])
        shares, bend = _capped_probabilities(query, keys, numbers)
        of_shares = (slope @ values.transpose(1, 2)).float()
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True)) * bend * numbers[0]
        of_scores, shares = of_scores.to(query.dtype), shares.to(query.dtype)
        of_query[span] = (of_scores @ keys).transpose(0, 1)
        for whole, part in ((of_key, of_scores.transpose(1, 2) @ query), (of_value, shares.transpose(1, 2) @ slope)):
            whole[span] = part.view(count, group, *part.shape[1:]).sum(1).transpose(0, 1)
    return found[0], found[1], found[2]


@_capped_gradient.register_fake
def _capped_gradient_shapes(
    gradient: Tensor, heads: list[Tensor], offsets: Tensor, numbers: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(heads[0]), torch.empty_like(heads[1]), torch.empty_like(heads[2])


def _keep_capped(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, Tensor, list[float]], output: Tensor) -> None:
    *tensors, ctx.numbers = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(*tensors)


def _differentiate_capped(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    *heads, offsets = ctx.saved_tensors  # type: ignore[attr-defined]
    numbers: list[float] = ctx.numbers  # type: ignore[attr-defined]
    return *_capped_gradient(gradient.contiguous(), heads, offsets, numbers), None, None


_capped.register_autograd(_differentiate_capped, setup_context=_keep_capped)
