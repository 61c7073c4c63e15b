"""The named models: every name has dimensions, and the dimensions have the size that the name says."""

from __future__ import annotations

import pytest

from tessera_api.recipes import RECIPES, RecipeName, recipe


def test_every_name_has_dimensions() -> None:
    assert set(RECIPES) == set(RecipeName)


@pytest.mark.parametrize(
    ("name", "vocabulary", "parameters"),
    [
        (RecipeName.LLAMA_1M, 8192, 983_520),
        (RecipeName.LLAMA_5M, 8192, 5_048_576),
        (RecipeName.LLAMA_20M, 8192, 19_929_600),
        (RecipeName.LLAMA_125M, 49_152, 127_421_184),
        (RecipeName.LLAMA_1B, 128_256, 1_235_814_400),  # as the model card of Llama 3.2 1B has it
    ],
)
def test_a_recipe_has_the_size_of_its_name(name: RecipeName, vocabulary: int, parameters: int) -> None:
    assert recipe(name).parameters(vocabulary) == parameters


@pytest.mark.parametrize("name", RecipeName)
def test_heads_share_the_width_and_the_keys_evenly(name: RecipeName) -> None:
    dimensions = recipe(name)

    assert dimensions.head_size * dimensions.heads == dimensions.hidden
    assert dimensions.head_size % 2 == 0  # rotary embeddings turn pairs
    assert dimensions.heads % dimensions.kv_heads == 0
