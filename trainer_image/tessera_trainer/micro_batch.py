"""Micro-batch: rows of packed documents, laid out as the model reads them. Pure; depends on the rows' data alone.

Rows are laid end to end into one stream of N = rows x length positions; a row's beginning is a document's beginning,
so that attention sees documents only and never rows. A **document** here is a run of equal segment ids inside a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_USUAL_LENGTH = 32
"""Documents are expected to have so many tokens on average, or more."""
IGNORED = -100
"""The target of a position that predicts nothing (the same number as in PyTorch's own losses)."""


@dataclass(frozen=True)
class MicroBatch:
    """One unit of work. All tensors lie on one device; N = rows x length.

    `offsets` holds where each document begins and, last, N. It is padded at its end with N (documents of no
    length) to one size for almost all micro-batches of a shape: a compiled block is specialised to it, and each
    further size costs each new process half a second, even where the code is in the cache.
    """

    inputs: Tensor  # int64 [N], tokens
    targets: Tensor  # int64 [N], the next token of the same document if it is learned, or IGNORED
    positions: Tensor  # int64 [N], 0 at each document's first token
    offsets: Tensor  # int32 [2^k + 1], non-decreasing, from 0 to N
    row_length: int  # no document is longer
    token_count: int  # targets that count
    attention_pairs: int  # (query, key) pairs under the causal document mask: sum of L (L + 1) / 2
    predicting: Tensor | None = None  # int64 [token_count], the positions whose targets count; None: ask `targets`

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on another device."""
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            offsets=self.offsets.to(device, non_blocking=True),
            predicting=None if self.predicting is None else self.predicting.to(device, non_blocking=True),
        )


def pack(tokens: Tensor, documents: Tensor, learned: Tensor | None = None) -> MicroBatch:
    """Lay out `tokens` [rows, T + 1] with their segment ids `documents` [rows, T + 1] (integers, on the CPU).

    A position predicts the token after it if both are of one document: a document's last token (its end-of-document
    token) is predicted and predicts nothing. Of `learned` [rows, T + 1] (bool) only true ones are predicted. Raises
    ValueError where the two do not have one two-dimensional shape.
    """
    if tokens.shape != documents.shape or tokens.dim() != 2 or tokens.shape[1] < 2:
        raise ValueError(f"tokens {list(tokens.shape)} and documents {list(documents.shape)} must be one [rows, T + 1]")
    rows, length = tokens.shape[0], tokens.shape[1] - 1
    same = documents[:, 1:] == documents[:, :-1]
    counted = same if learned is None else same & learned[:, 1:]
    targets = torch.where(counted, tokens[:, 1:].long(), IGNORED)
    first = torch.ones(rows, length, dtype=torch.bool)
    first[:, 1:] = ~same[:, :-1]
    starts = first.reshape(-1).nonzero().squeeze(1)
    lengths = torch.diff(starts, append=torch.tensor([rows * length]))
    positions = torch.arange(rows * length) - torch.repeat_interleave(starts, lengths)
    return MicroBatch(
        inputs=tokens[:, :-1].long().reshape(-1),
        targets=targets.reshape(-1),
        positions=positions,
        offsets=_padded(starts, rows * length),
        row_length=length,
        token_count=int(counted.sum()),
        attention_pairs=int((lengths * (lengths + 1) // 2).sum()),
        predicting=None if learned is None or not counted.any() else counted.reshape(-1).nonzero().squeeze(1),
    )


def _padded(starts: Tensor, end: int) -> Tensor:
    """To the next power of two plus one, and at least to what rows of ordinary documents need."""
    size = 1 << (max(starts.numel(), -(-end // _USUAL_LENGTH)) - 1).bit_length()
    offsets = torch.full((size + 1,), end, dtype=torch.int32)
    offsets[: starts.numel()] = starts
    return offsets
