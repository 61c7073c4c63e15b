"""Hugging Face's words for our model: one table of names, and the two configuration files, both ways.

Our model is what `transformers` calls LlamaForCausalLM: the same RMSNorm, the same rotation (halves, not pairs), the
same grouping of heads. Only the fused weights differ: theirs are our rows, cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tessera_trainer.shape import ModelShape

CONFIGURATION = "config.json"
GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"


class ForeignModel(ValueError):
    """A configuration that our decoder cannot be: the message names the entry and both values."""


@dataclass(frozen=True)
class Entry:
    """One of our parameters, and the tensors that its rows are there, in order."""

    ours: str
    theirs: tuple[tuple[str, int], ...]  # (name, rows)


def entries(shape: ModelShape) -> Iterator[Entry]:
    """Every parameter of the model, in the model's own order. A tied head is no parameter on either side."""
    yield _whole("embedding.weight", "model.embed_tokens.weight", shape.vocabulary)
    for layer in range(shape.layers):
        yield from _block(shape, f"layers.{layer}.", f"model.layers.{layer}.")
    yield _whole("norm.weight", "model.norm.weight", shape.hidden)
    if not shape.tied:
        yield _whole("head.weight", "lm_head.weight", shape.vocabulary)


def _block(shape: ModelShape, ours: str, theirs: str) -> Iterator[Entry]:
    yield _whole(f"{ours}attention_norm.weight", f"{theirs}input_layernorm.weight", shape.hidden)
    query, key, value = shape.qkv_rows
    projections = (("q", query), ("k", key), ("v", value))
    cut = tuple((f"{theirs}self_attn.{name}_proj.weight", rows) for name, rows in projections)
    yield Entry(f"{ours}attention.qkv.weight", cut)
    yield _whole(f"{ours}attention.output.weight", f"{theirs}self_attn.o_proj.weight", shape.hidden)
    yield _whole(f"{ours}feed_forward_norm.weight", f"{theirs}post_attention_layernorm.weight", shape.hidden)
    cut = tuple((f"{theirs}mlp.{name}_proj.weight", shape.ffn) for name in ("gate", "up"))
    yield Entry(f"{ours}feed_forward.gate_up.weight", cut)
    yield _whole(f"{ours}feed_forward.down.weight", f"{theirs}mlp.down_proj.weight", shape.hidden)


def _whole(ours: str, theirs: str, rows: int) -> Entry:
    return Entry(ours, ((theirs, rows),))


def configuration(shape: ModelShape, dtype: torch.dtype, end_of_text: int) -> dict[str, Any]:
    """`config.json`. The base of the rotation stands twice: version 5 of `transformers` moved it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": str(dtype).removeprefix("torch."),
        "eos_token_id": end_of_text,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.sequence_length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


def generation(end_of_text: int) -> dict[str, Any]:
    """`generation_config.json`: a text ends at the token that ends documents."""
    return {"bos_token_id": None, "eos_token_id": end_of_text, "pad_token_id": end_of_text}


_REQUIRED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def shape_of(document: bytes) -> ModelShape:
    """The shape that a `config.json` describes. Raises ForeignModel where our decoder would compute something else."""
    configuration = {"attention_bias": False, "mlp_bias": False, **json.loads(document)}
    for name, ours in _REQUIRED.items():
        if configuration.get(name) != ours:
            raise ForeignModel(f"{CONFIGURATION}: {name} is {configuration.get(name)!r}; it must be {ours!r}")
    try:
        shape = _shape(configuration)
    except KeyError as missing:
        raise ForeignModel(f"{CONFIGURATION}: {missing} is missing") from missing
    if configuration.get("head_dim") not in (None, shape.head_width):
        raise ForeignModel(f"{CONFIGURATION}: head_dim is {configuration['head_dim']}; it must be {shape.head_width}")
    return shape


def _shape(configuration: dict[str, Any]) -> ModelShape:
    return ModelShape(
        vocabulary=configuration["vocab_size"],
        sequence_length=configuration["max_position_embeddings"],
        hidden=configuration["hidden_size"],
        layers=configuration["num_hidden_layers"],
        heads=configuration["num_attention_heads"],
        kv_heads=configuration["num_key_value_heads"],
        ffn=configuration["intermediate_size"],
        rope_theta=_rope_theta(configuration),
        tied=configuration["tie_word_embeddings"],
        norm_epsilon=configuration["rms_norm_eps"],
    )


def _rope_theta(configuration: dict[str, Any]) -> float:
    """Either spelling; a scaled rotation is refused."""
    rotation = configuration.get("rope_parameters") or configuration.get("rope_scaling") or {}
    kind = rotation.get("rope_type", rotation.get("type", "default"))
    if kind != "default":
        raise ForeignModel(f"{CONFIGURATION}: rope_type is {kind!r}; it must be 'default'")
    theta = rotation.get("rope_theta", configuration.get("rope_theta"))
    if theta is None:
        raise ForeignModel(f"{CONFIGURATION}: rope_theta is missing")
    return float(theta)
