"""Shape: the sizes of a decoder, and what follows from sizes alone.

Everything here is a number known before a parameter exists; FLOPs, export and initialisation read it without a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tessera_api.recipes import Recipe


@dataclass(frozen=True)
class ModelShape:
    """A Llama-shaped decoder. Raises ValueError, naming the sizes, where they do not fit together."""

    vocabulary: int
    sequence_length: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    rope_theta: float
    tied: bool
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.sequence_length, self.hidden, self.layers, self.heads, self.kv_heads, self.ffn)
        if min(sizes) < 1:
            raise ValueError(f"every size of a model is at least 1: {self}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}")
        if self.head_width % 2:
            raise ValueError(f"a head of width {self.head_width} cannot be rotated: hidden / heads must be even")

    @staticmethod
    def of(recipe: Recipe, vocabulary: int, sequence_length: int) -> ModelShape:
        """The shape that a recipe takes with this tokenizer and this row length."""
        return ModelShape(
            vocabulary=vocabulary,
            sequence_length=sequence_length,
            hidden=recipe.hidden,
            layers=recipe.layers,
            heads=recipe.heads,
            kv_heads=recipe.kv_heads,
            ffn=recipe.ffn,
            rope_theta=float(recipe.rope_theta),
            tied=recipe.tied_embeddings,
            norm_epsilon=recipe.norm_epsilon,
        )

    @property
    def head_width(self) -> int:
        """Elements of one attention head."""
        return self.hidden // self.heads

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of query, key and value inside the fused projection, in this order."""
        kv = self.kv_heads * self.head_width
        return self.hidden, kv, kv

    @property
    def matmul_parameters(self) -> int:
        """Weights that a token is multiplied with: all matrices of the blocks and the head, not the look-up."""
        block = self.hidden * (sum(self.qkv_rows) + self.hidden + 3 * self.ffn)
        return self.layers * block + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Every trained number, each once."""
        norms = (2 * self.layers + 1) * self.hidden
        lookup = 0 if self.tied else self.vocabulary * self.hidden
        return self.matmul_parameters + lookup + norms
