"""The named models that a run can train: their dimensions, without the vocabulary, which the dataset brings."""

from dataclasses import dataclass
from enum import StrEnum


class RecipeName(StrEnum):
    """Every model that `model.recipe` can name."""

    LLAMA_1M = "llama-1m"
    LLAMA_5M = "llama-5m"
    LLAMA_20M = "llama-20m"
    LLAMA_125M = "llama-125m"
    LLAMA_1B = "llama-1b"


@dataclass(frozen=True)
class Recipe:
    """Dimensions of a Llama-shaped decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU, no biases."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    rope_theta: int = 10_000
    tied_embeddings: bool = True
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    def parameters(self, vocabulary: int) -> int:
        """How many weights the model has with a vocabulary of this size."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * self.head_size
        block = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        tables = 1 if self.tied_embeddings else 2
        return self.layers * block + tables * vocabulary * self.hidden + self.hidden


RECIPES: dict[RecipeName, Recipe] = {
    RecipeName.LLAMA_1M: Recipe(hidden=96, layers=2, heads=6, kv_heads=2, ffn=256),
    RecipeName.LLAMA_5M: Recipe(hidden=256, layers=4, heads=4, kv_heads=2, ffn=704),
    RecipeName.LLAMA_20M: Recipe(hidden=512, layers=6, heads=8, kv_heads=2, ffn=1280),
    RecipeName.LLAMA_125M: Recipe(hidden=768, layers=12, heads=12, kv_heads=4, ffn=2560),
    # The shape of Llama 3.2 1B: 1.24e9 weights with its vocabulary of 128,256.
    RecipeName.LLAMA_1B: Recipe(hidden=2048, layers=16, heads=32, kv_heads=8, ffn=8192, rope_theta=500_000),
}


def recipe(name: RecipeName) -> Recipe:
    """The dimensions that go by this name."""
    return RECIPES[name]
