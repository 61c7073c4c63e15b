"""Attention: causal, and never across a document's border. One function; the device and dtype choose the path.

- CPU: PyTorch's fused attention document by document. The work is the sum of L^2 / 2 over documents, where a mask over
  a whole row would cost T^2, and a document's bits do not depend on its neighbours. It is an operator of its own, so
  that a compiled block neither looks inside nor is specialised to the lengths.
- CUDA, bf16 or fp16: PyTorch's `varlen_attn` (cuDNN or FlashAttention) over the offsets, one launch.
- CUDA, fp32: fused attention document by document under autograd. Correct and slow: fp32 is for comparisons.

`benchmarks/gpu.py` holds the bf16 path against float32 by hand, and looks whether it repeats its bits (gradients do
under `torch.use_deterministic_algorithms` alone, see `parallel`).
"""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn


def attention(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """Attend inside each document: query [N, heads, width], key and value [N, kv_heads, width] -> [N, heads, width].

    `offsets` int32 [documents + 1] are the documents' borders (`MicroBatch`), on the device of `query`; no document is
    longer than `longest`. The scale is 1 / sqrt(width). Query head h reads key head h // (heads / kv_heads).
    """
    if not query.is_cuda:
        output, _ = _by_document(query, key, value, offsets)
        return cast(Tensor, output)
    if query.dtype is torch.float32:
        return _by_document_under_autograd(query, key, value, offsets)
    mixed = varlen_attn(query, key, value, offsets, offsets, longest, longest, window_size=(-1, 0), enable_gqa=True)
    return cast(Tensor, mixed)


def _spans(offsets: Tensor) -> list[slice]:
    """The documents, without those of no length that pad the offsets."""
    borders = offsets.tolist()
    return [slice(begin, end) for begin, end in itertools.pairwise(borders) if begin < end]


def _by_document_under_autograd(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    parts = []
    for span in _spans(offsets):
        heads = [part[span].transpose(0, 1)[None] for part in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True, enable_gqa=True)
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
def _by_document(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The output [N, heads, width], and the logs of the softmax's sums [kv_heads, group, N] for the gradient."""
    output, log_sums = _by_document_shapes(query, key, value, offsets)
    kv_heads, group, _ = log_sums.shape
    queries, keys, values = _grouped(query, kv_heads), _shared(key, group), _shared(value, group)
    outputs = _grouped(output, kv_heads)
    for span in _spans(offsets):
        outputs[:, :, span], log_sums[:, :, span] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries[:, :, span], keys[:, :, span], values[:, :, span], 0.0, True
        )
    return output, log_sums


@_by_document.register_fake
def _by_document_shapes(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    length, heads, _ = query.shape
    kv_heads = key.shape[1]
    log_sums = query.new_empty((kv_heads, heads // kv_heads, length), dtype=torch.float32)
    return query.new_empty(query.shape), log_sums


@torch.library.custom_op("tessera::attention_by_document_gradient", mutates_args=(), device_types="cpu")
def _by_document_gradient(
    gradient: Tensor, heads: list[Tensor], log_sums: Tensor, offsets: Tensor
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
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*parts, 0.0, True)
        )
    return of_query, of_shared[0].sum(2), of_shared[1].sum(2)


@_by_document_gradient.register_fake
def _by_document_gradient_shapes(
    gradient: Tensor, heads: list[Tensor], log_sums: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value, _ = heads
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, offsets = inputs
    ctx.save_for_backward(query, key, value, *output, offsets)


def _differentiate(ctx: FunctionCtx, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    *heads, log_sums, offsets = ctx.saved_tensors  # type: ignore[attr-defined]
    return *_by_document_gradient(gradient.contiguous(), heads, log_sums, offsets), None


_by_document.register_autograd(_differentiate, setup_context=_keep)
