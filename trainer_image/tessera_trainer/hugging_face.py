"""Hugging Face's names for our weights: one table, both ways.

The layouts are the same (rotation by halves, not pairs; the same grouping of heads). Only fused weights differ: theirs
are our rows, cut; and Gemma's norms, which are ours less 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tessera_trainer.families import FAMILIES
from tessera_trainer.shape import ModelShape
from tessera_trainer.style import HeadNorm, Norms

GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"


@dataclass(frozen=True)
class Entry:
    """One of our parameters, and the tensors that its rows are there, in order."""

    ours: str
    theirs: tuple[tuple[str, int], ...]  # (name, rows)
    more: float = 0.0
    """Ours are theirs and so much more."""


def entries(shape: ModelShape) -> Iterator[Entry]:
    """Every parameter of the model, in the model's own order. A tied head is no parameter on either side."""
    more = float(FAMILIES[shape.style.family].norm_from_one)
    yield _whole("embedding.weight", "model.embed_tokens.weight", shape.vocabulary)
    for layer in range(shape.layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        attention, feed_forward = _attention(shape, ours, theirs, more), _positions_own(shape, layer, ours, theirs)
        norms = {
            name: _norm(f"{ours}{name}", f"{theirs}{their_name}", shape.hidden, more)
            for name, their_name in _NORMS[shape.style.norms]
        }
        for part, weights in (("attention", attention), ("feed_forward", feed_forward)):
            yield from (norms[name] for name in (f"{part}_norm",) if name in norms)
            yield from weights
            yield from (norms[name] for name in (f"after_{part}_norm",) if name in norms)
    yield _norm("norm", "model.norm", shape.hidden, more)
    if not shape.tied:
        yield _whole("head.weight", "lm_head.weight", shape.vocabulary)


_NORMS = {
    Norms.BEFORE: (("attention_norm", "input_layernorm"), ("feed_forward_norm", "post_attention_layernorm")),
    Norms.AFTER: (
        ("after_attention_norm", "post_attention_layernorm"),
        ("after_feed_forward_norm", "post_feedforward_layernorm"),
    ),
    Norms.AROUND: (
        ("attention_norm", "input_layernorm"),
        ("after_attention_norm", "post_attention_layernorm"),
        ("feed_forward_norm", "pre_feedforward_layernorm"),
        ("after_feed_forward_norm", "post_feedforward_layernorm"),
    ),
}
"""Of a block: ours, theirs."""


def _attention(shape: ModelShape, ours: str, theirs: str, more: float) -> Iterator[Entry]:
    query, key, value = shape.qkv_rows
    kinds = ("weight", "bias") if shape.style.qkv_bias else ("weight",)
    for kind in kinds:
        projections = (("q", query), ("k", key), ("v", value))
        cut = tuple((f"{theirs}self_attn.{name}_proj.{kind}", rows) for name, rows in projections)
        yield Entry(f"{ours}attention.qkv.{kind}", cut)
    for kind in ("weight", "bias") if shape.style.output_bias else ("weight",):
        yield _whole(f"{ours}attention.output.{kind}", f"{theirs}self_attn.o_proj.{kind}", shape.hidden)
    if shape.style.head_norm is not HeadNorm.NONE:
        whole = shape.style.head_norm is HeadNorm.WHOLE
        for name, letter, rows in (("query", "q", query), ("key", "k", key)):
            width = rows if whole else shape.head_width
            yield _norm(f"{ours}attention.{name}_norm", f"{theirs}self_attn.{letter}_norm", width, more)


def _positions_own(shape: ModelShape, layer: int, ours: str, theirs: str) -> Iterator[Entry]:
    """Of what works on each position alone."""
    mixture = shape.mixture(layer)
    if mixture is None:
        yield from _feed_forward(shape, shape.ffn, f"{ours}feed_forward", f"{theirs}mlp")
        return
    names = FAMILIES[shape.style.family].expert_names
    part = f"{theirs}{names.part}"
    yield _whole(f"{ours}feed_forward.router.weight", f"{part}.gate.weight", mixture.count)
    each = [f"{part}.experts.{expert}" for expert in range(mixture.count)]
    halves = tuple((f"{one}.{name}.weight", mixture.width) for one in each for name in (names.gate, names.up))
    yield Entry(f"{ours}feed_forward.gate_up.weight", halves)
    yield Entry(f"{ours}feed_forward.down.weight", tuple((f"{one}.{names.down}.weight", shape.hidden) for one in each))
    if mixture.shared:
        yield from _feed_forward(shape, mixture.shared, f"{ours}feed_forward.shared", f"{part}.shared_expert")
        yield _whole(f"{ours}feed_forward.shared_gate.weight", f"{part}.shared_expert_gate.weight", 1)


def _feed_forward(shape: ModelShape, width: int, ours: str, theirs: str) -> Iterator[Entry]:
    kinds = ("weight", "bias") if shape.style.feed_forward_bias else ("weight",)
    for kind in kinds:
        cut = tuple((f"{theirs}.{name}_proj.{kind}", width) for name in ("gate", "up"))
        yield Entry(f"{ours}.gate_up.{kind}", cut)
    for kind in kinds:
        yield _whole(f"{ours}.down.{kind}", f"{theirs}.down_proj.{kind}", shape.hidden)


def _whole(ours: str, theirs: str, rows: int) -> Entry:
    return Entry(ours, ((theirs, rows),))


def _norm(ours: str, theirs: str, width: int, more: float) -> Entry:
    return Entry(f"{ours}.weight", ((f"{theirs}.weight", width),), more)


def generation(end_of_text: int) -> dict[str, Any]:
    """`generation_config.json`: a text ends at the token that ends documents."""
    return {"bos_token_id": None, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
