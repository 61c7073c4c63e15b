"""Model: a Llama-shaped decoder (RMSNorm, RoPE, grouped-query attention, SwiGLU) over packed documents.

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

from tessera_trainer.attention import attention
from tessera_trainer.loss import summed_loss
from tessera_trainer.micro_batch import MicroBatch
from tessera_trainer.rms_norm import RmsNorm
from tessera_trainer.rope import rotate, rotations
from tessera_trainer.shape import ModelShape
from tessera_trainer.swiglu import swiglu


class Attention(nn.Module):
    """Mixes the positions of a document."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self._heads, self._kv_heads, self._width = shape.heads, shape.kv_heads, shape.head_width
        self._longest = shape.sequence_length
        self.qkv = nn.Linear(shape.hidden, sum(shape.qkv_rows), bias=False)
        self.output = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, stream: Tensor, cosine: Tensor, sine: Tensor, offsets: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden]."""
        heads = self.qkv(stream).view(stream.shape[0], -1, self._width)
        unturned, value = torch.split(heads, [self._heads + self._kv_heads, self._kv_heads], dim=1)
        query, key = torch.split(rotate(unturned, cosine, sine), [self._heads, self._kv_heads], dim=1)
        mixed = attention(query, key, value, offsets, self._longest)
        return self.output(mixed.reshape(stream.shape))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Works on each position alone."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_up = nn.Linear(shape.hidden, 2 * shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden]."""
        return self.down(swiglu(self.gate_up(stream)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer: attention, then feed-forward, each behind its norm and added to the stream."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(shape.hidden, shape.norm_epsilon)
        self.attention = Attention(shape)
        self.feed_forward_norm = RmsNorm(shape.hidden, shape.norm_epsilon)
        self.feed_forward = FeedForward(shape)

    def forward(self, stream: Tensor, cosine: Tensor, sine: Tensor, offsets: Tensor) -> Tensor:
        """[N, hidden] -> [N, hidden]."""
        stream = stream + self.attention(self.attention_norm(stream), cosine, sine, offsets)
        return stream + self.feed_forward(self.feed_forward_norm(stream))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """The whole model. A tied head is the embedding's own weight, not a second parameter."""

    def __init__(self, shape: ModelShape, device: str | torch.device = "meta") -> None:
        with torch.device(device):
            super().__init__()
            self.shape = shape
            self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
            self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
            self.norm = RmsNorm(shape.hidden, shape.norm_epsilon)
            if not shape.tied:
                self.head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, int]:
        """The loss summed over the batch's tokens (float32 scalar), and how many tokens counted."""
        return summed_loss(self.stream(batch), self._head_weight, batch.targets), batch.token_count

    def stream(self, batch: MicroBatch) -> Tensor:
        """What the head reads, [N, hidden]."""
        stream: Tensor = self.embedding(batch.inputs)
        cosine, sine = rotations(batch.positions, self.shape.head_width, self.shape.rope_theta)
        for layer in self.layers:
            stream = layer(stream, cosine, sine, batch.offsets)
        return self.norm(stream)  # type: ignore[no-any-return]

    def logits(self, batch: MicroBatch) -> Tensor:
        """All logits, [N, vocabulary] in float32: for comparisons and small batches only."""
        return functional.linear(self.stream(batch), self._head_weight).float()

    @property
    def _head_weight(self) -> Tensor:
        return self.embedding.weight if self.shape.tied else self.head.weight
