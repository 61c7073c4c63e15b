"""Style: in what families of decoders differ beyond their sizes. Llama's is the default of every choice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Norms(StrEnum):
    """Where a block normalises."""

    BEFORE = "before"
    """What attention and feed-forward read (Llama),"""
    AFTER = "after"
    """what they write (OLMo 2),"""
    AROUND = "around"
    """or both (Gemma 2)."""


class HeadNorm(StrEnum):
    """How queries and keys are normalised before they are turned."""

    NONE = "none"
    HEAD = "head"
    """Each head by itself (Qwen 3),"""
    WHOLE = "whole"
    """or all heads of a position together (OLMo 2)."""


class Activation(StrEnum):
    """What a feed-forward's gate goes through."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"
    """GELU by its approximation with a hyperbolic tangent."""


class Stretch(StrEnum):
    """How a rotation is made fit for rows longer than it was trained on."""

    NONE = "none"
    LINEAR = "linear"
    """All positions divided (arXiv 2306.15595),"""
    LLAMA3 = "llama3"
    """slow turns divided, with a smooth border (Llama 3.1's published code),"""
    YARN = "yarn"
    """slow turns divided by a ramp, and attention sharpened (arXiv 2309.00071)."""


@dataclass(frozen=True)
class Rotation:
    """RoPE: its base, and how it is stretched. What a stretch does not use stays at its default."""

    theta: float
    stretch: Stretch = Stretch.NONE
    factor: float = 1.0
    original_length: int = 0
    """Positions before the stretch."""
    low: float = 1.0
    """llama3: `low_freq_factor`; yarn: `beta_slow`: full turns within the original length, below which all is
    divided."""
    high: float = 1.0
    """llama3: `high_freq_factor`; yarn: `beta_fast`: above which nothing is."""
    gain: float = 1.0
    """yarn: what sines and cosines are multiplied with."""
    whole: bool = True
    """yarn: the ramp begins and ends at whole elements of a head."""


@dataclass(frozen=True)
class Mixture:
    """Experts in place of a feed-forward."""

    count: int
    """Of each layer,"""
    chosen: int
    """and how many of them a position uses."""
    width: int
    """Elements inside an expert."""
    normalised: bool = True
    """Whether the shares of those that are chosen sum to 1."""
    shared: int = 0
    """Elements inside an expert that all positions use beside those that they choose; 0: there is none (Qwen 2)."""
    balance: float = 0.0
    """Weight of the loss that keeps experts evenly used, against a token's own loss."""
    dense: tuple[bool, ...] = ()
    """By layer: whether it has a feed-forward for all instead; empty: none has."""


@dataclass(frozen=True)
class Style:
    """See the module. Tuples with an entry for each layer may be empty: then no layer differs."""

    family: str = "llama"
    """By whose names weights and settings go elsewhere (`families`)."""
    norms: Norms = Norms.BEFORE
    head_norm: HeadNorm = HeadNorm.NONE
    activation: Activation = Activation.SILU
    qkv_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    scaled_embedding: bool = False
    """What is looked up is multiplied by sqrt(hidden), rounded to the stream's format (Gemma)."""
    query_scale: float | None = None
    """Scores are divided by its root; None: by that of a head's width."""
    score_cap: float | None = None
    """Scores s become cap * tanh(s / cap) (Gemma 2),"""
    logit_cap: float | None = None
    """and logits."""
    windows: tuple[int, ...] = ()
    """By layer: a position sees so many, itself among them; 0: all before it."""
    local: Rotation | None = None
    """The rotation of layers with a window; None: as all others."""
    mixture: Mixture | None = None
    """None: one feed-forward for all positions."""
    unturned: tuple[bool, ...] = ()
    """By layer: whether positions are not told at all (SmolLM 3)."""
