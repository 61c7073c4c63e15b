"""Model: a decoder (RMSNorm, RoPE, grouped-query attention, a gated feed-forward or experts) over packed documents;
`style` has in what families differ.

The stream of a micro-batch is flat, [N, hidden]; documents are told apart by attention and by nothing else.
`model.layers` are the blocks, which `parallel` shards and compiles one by one; the loss is made inside `forward`, where
FSDP2 has the head's weight gathered. Query, key and value, and gate and up, are one weight each (one matrix product,
one gradient); `names` has how they are called elsewhere.

What must stay true (design.md §2.7): bits depend on the micro-batch and the weights alone; no dropout, no state.
Built on the meta device (`with torch.device("meta")`) it takes no memory until `parallel.prepare` gives it some.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera_trainer.adapter import Adapter, freeze, linear
from tessera_trainer.attention import Scores, attention
from tessera_trainer.experts import MixtureFeedForward
from tessera_trainer.feed_forward import FeedForward
from tessera_trainer.loss import capped, summed_loss
from tessera_trainer.micro_batch import MicroBatch
from tessera_trainer.rms_norm import RmsNorm
from tessera_trainer.rope import rotate, rotations
from tessera_trainer.shape import ModelShape
from tessera_trainer.style import HeadNorm, Norms


class Attention(nn.Module):
    """Mixes the positions of a document."""

    def __init__(self, shape: ModelShape, layer: int, adapter: Adapter | None) -> None:
        super().__init__()
        style = shape.style
        self._heads, self._kv_heads, self._width = shape.heads, shape.kv_heads, shape.head_width
        self._longest, self._turned, self._head_norm = shape.sequence_length, shape.turned(layer), style.head_norm
        scale = None if style.query_scale is None else style.query_scale**-0.5
        self._scores = Scores(scale, shape.window(layer), style.score_cap or 0.0)
        self.qkv = linear(shape.hidden, shape.qkv_rows, style.qkv_bias, adapter)
        self.output = linear(shape.heads * shape.head_width, (shape.hidden,), style.output_bias, adapter)
        if style.head_norm is not HeadNorm.NONE:
            query, key, _ = shape.qkv_rows
            whole = style.head_norm is HeadNorm.WHOLE
            self.query_norm = RmsNorm(query if whole else shape.head_width, shape.norm_epsilon)
            self.key_norm = RmsNorm(key if whole else shape.head_width, shape.norm_epsilon)

    def forward(self, stream: Tensor, cosine: Tensor, sine: Tensor, offsets: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden]."""
        heads = self.qkv(stream).view(stream.shape[0], -1, self._width)
        turned, value = torch.split(heads, [self._heads + self._kv_heads, self._kv_heads], dim=1)
        if self._head_norm is not HeadNorm.NONE:
            turned = self._normalised(turned)
        if self._turned:
            turned = rotate(turned, cosine, sine)
        query, key = torch.split(turned, [self._heads, self._kv_heads], dim=1)
        mixed = attention(query, key, value, offsets, self._longest, self._scores)
        return self.output(mixed.reshape(stream.shape[0], -1))  # type: ignore[no-any-return]

    def _normalised(self, heads: Tensor) -> Tensor:
        """Queries and keys, [N, heads + kv_heads, width]."""
        parts = torch.split(heads, [self._heads, self._kv_heads], dim=1)
        count = 1 if self._head_norm is HeadNorm.WHOLE else self._width
        rows = (part.reshape(-1, part.shape[1] * self._width if count == 1 else count) for part in parts)
        normalised = [norm(part) for norm, part in zip((self.query_norm, self.key_norm), rows, strict=True)]
        return torch.cat([part.view(heads.shape[0], -1, self._width) for part in normalised], dim=1)


class Block(nn.Module):
    """One layer: attention, then feed-forward or experts, each with its norms and added to the stream."""

    def __init__(self, shape: ModelShape, layer: int, adapter: Adapter | None) -> None:
        super().__init__()
        norms = shape.style.norms
        self._before, self._after = norms is not Norms.AFTER, norms is not Norms.BEFORE
        if self._before:
            self.attention_norm = RmsNorm(shape.hidden, shape.norm_epsilon)
        self.attention = Attention(shape, layer, adapter)
        if self._after:
            self.after_attention_norm = RmsNorm(shape.hidden, shape.norm_epsilon)
        if self._before:
            self.feed_forward_norm = RmsNorm(shape.hidden, shape.norm_epsilon)
        mixture = shape.mixture(layer)
        self.feed_forward = (
            FeedForward(shape, shape.ffn, adapter) if mixture is None else MixtureFeedForward(shape, mixture)
        )
        self._experts = mixture is not None
        if self._after:
            self.after_feed_forward_norm = RmsNorm(shape.hidden, shape.norm_epsilon)

    def forward(self, stream: Tensor, cosine: Tensor, sine: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor | None]:
        """[N, hidden] -> [N, hidden], and how unevenly its experts were chosen, where it has some."""
        mixed = self.attention(self.attention_norm(stream) if self._before else stream, cosine, sine, offsets)
        stream = stream + (self.after_attention_norm(mixed) if self._after else mixed)
        made, uneven = self.feed_forward(self.feed_forward_norm(stream) if self._before else stream), None
        if self._experts:
            made, uneven = made
        return stream + (self.after_feed_forward_norm(made) if self._after else made), uneven


class Decoder(nn.Module):
    """The whole model. A tied head is the embedding's own weight, not a second parameter. With an `adapter` nothing
    else is trained."""

    def __init__(self, shape: ModelShape, device: str | torch.device = "meta", adapter: Adapter | None = None) -> None:
        with torch.device(device):
            super().__init__()
            self.shape = shape
            self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
            self.layers = nn.ModuleList(Block(shape, layer, adapter) for layer in range(shape.layers))
            self.norm = RmsNorm(shape.hidden, shape.norm_epsilon)
            if not shape.tied:
                self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
            if adapter is not None:
                freeze(self)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, int]:
        """The loss summed over the batch's tokens (float32 scalar), and how many tokens counted."""
        stream, uneven = self._layers(batch)
        targets = batch.targets
        if batch.predicting is not None:  # what is only read never meets the head
            stream, targets = stream.index_select(0, batch.predicting), targets.index_select(0, batch.predicting)
        loss = summed_loss(stream, self._head_weight, targets, self.shape.style.logit_cap)
        mixture = self.shape.style.mixture
        if mixture is not None and mixture.balance and uneven:
            more = torch.stack(uneven).mean() * (mixture.balance * batch.token_count)
            loss = loss + (more - more.detach())  # it has a gradient, and is no part of the loss that is told
        return loss, batch.token_count

    def stream(self, batch: MicroBatch) -> Tensor:
        """What the head reads, [N, hidden]."""
        return self._layers(batch)[0]

    def _layers(self, batch: MicroBatch) -> tuple[Tensor, list[Tensor]]:
        """What the head reads, and how unevenly each layer that has experts has chosen."""
        shape, stream = self.shape, self.embedding(batch.inputs)
        if shape.style.scaled_embedding:
            stream = stream * torch.tensor(shape.hidden**0.5, dtype=stream.dtype, device=stream.device)
        turns = rotations(batch.positions, shape.head_width, shape.turns)
        local = turns
        if shape.style.local is not None:
            local = rotations(batch.positions, shape.head_width, shape.style.local)
        found = []
        for number, layer in enumerate(self.layers):
            stream, uneven = layer(stream, *(local if shape.window(number) else turns), batch.offsets)
            if uneven is not None:
                found.append(uneven)
        return self.norm(stream), found

    def logits(self, batch: MicroBatch) -> Tensor:
        """All logits, [N, vocabulary] in float32: for comparisons and small batches only."""
        return capped(functional.linear(self.stream(batch), self._head_weight), self.shape.style.logit_cap).float()

    @property
    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.shape.tied else self.head.weight
