"""Shape: the sizes of a decoder, and what follows from sizes alone.

Everything here is a number known before a parameter exists; FLOPs, export and initialisation read it without a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera_trainer.style import HeadNorm, Mixture, Norms, Rotation, Style

if TYPE_CHECKING:
    from tessera_api.recipes import Recipe


_LLAMA = Style()


@dataclass(frozen=True)
class ModelShape:
    """A decoder in one of many styles. Raises ValueError, naming the sizes, where they do not fit together."""

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
    head_size: int | None = None
    """Elements of an attention head; None: hidden / heads."""
    positions: int | None = None
    """How long the rows may be that it is made for, as it says of itself; None: `sequence_length`."""
    rotation: Rotation | None = None
    """None: with base `rope_theta`, and not stretched."""
    style: Style = _LLAMA

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.sequence_length, self.hidden, self.layers, self.heads, self.kv_heads, self.ffn)
        if min(sizes) < 1:
            raise ValueError(f"every size of a model is at least 1: {self}")
        if self.head_size is None and self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}")
        if self.head_width % 2:
            raise ValueError(f"a head of width {self.head_width} cannot be rotated: hidden / heads must be even")
        self._judge_style()

    def _judge_style(self) -> None:
        by_layer = {"windows": self.style.windows, "unturned": self.style.unturned}
        if (mixture := self.style.mixture) is not None:
            by_layer["dense"] = mixture.dense
            if not 1 <= mixture.chosen <= mixture.count:
                raise ValueError(f"a position must use 1 to all of {mixture.count} experts, not {mixture.chosen}")
        for name, entries in by_layer.items():
            if len(entries) not in (0, self.layers):
                raise ValueError(f"{name} must have an entry for each of {self.layers} layers: {self.style}")

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
        return self.hidden // self.heads if self.head_size is None else self.head_size

    @property
    def turns(self) -> Rotation:
        """The rotation of layers that see all before them."""
        return Rotation(self.rope_theta) if self.rotation is None else self.rotation

    def window(self, layer: int) -> int:
        """How many positions one sees in this layer, itself among them; 0: all before it."""
        return self.style.windows[layer] if self.style.windows else 0

    def turned(self, layer: int) -> bool:
        """Whether positions are told in this layer."""
        return not (self.style.unturned and self.style.unturned[layer])

    def mixture(self, layer: int) -> Mixture | None:
        """The experts of this layer."""
        mixture = self.style.mixture
        return None if mixture is None or (mixture.dense and mixture.dense[layer]) else mixture

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of query, key and value inside the fused projection, in this order."""
        kv = self.kv_heads * self.head_width
        return self.heads * self.head_width, kv, kv

    @property
    def matmul_parameters(self) -> int:
        """Weights that a token is multiplied with: the matrices of the blocks, of experts those that it uses, and the
        head, not the look-up."""
        attention = self.hidden * (sum(self.qkv_rows) + self.heads * self.head_width)
        blocks = sum(attention + self._feed_forward(layer, active=True) for layer in range(self.layers))
        return blocks + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Every trained number, each once."""
        return self.active_parameters + sum(
            self._feed_forward(layer, active=False) - self._feed_forward(layer, active=True)
            for layer in range(self.layers)
        )

    @property
    def active_parameters(self) -> int:
        """Those that one token meets: all, but of experts only those that it uses."""
        lookup = 0 if self.tied else self.vocabulary * self.hidden
        return self.matmul_parameters + lookup + self.hidden + self.layers * self._vectors

    def _feed_forward(self, layer: int, *, active: bool) -> int:
        """Matrices of a layer's feed-forward or experts."""
        mixture = self.mixture(layer)
        if mixture is None:
            return 3 * self.hidden * self.ffn
        experts = (mixture.chosen if active else mixture.count) * 3 * mixture.width
        return self.hidden * (experts + mixture.count + 3 * mixture.shared + (1 if mixture.shared else 0))

    @property
    def _vectors(self) -> int:
        """Norms and biases of a block."""
        style, (query, key, value) = self.style, self.qkv_rows
        norms = (4 if style.norms is Norms.AROUND else 2) * self.hidden
        of_heads = {HeadNorm.NONE: 0, HeadNorm.HEAD: 2 * self.head_width, HeadNorm.WHOLE: query + key}
        biases = style.qkv_bias * (query + key + value) + style.output_bias * self.hidden
        return norms + of_heads[style.head_norm] + biases + style.feed_forward_bias * (2 * self.ffn + self.hidden)
