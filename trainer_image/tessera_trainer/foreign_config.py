"""`config.json` of another's model: read into a shape, and written from one.

What must stay true: a setting that could change what is computed is used or refused, never ignored; no code of the
model's is run.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import torch

from tessera_trainer.families import FAMILIES, FULL, SLIDING, Family, Settings
from tessera_trainer.shape import ModelShape
from tessera_trainer.style import Rotation, Stretch

CONFIGURATION = "config.json"

_SIZES = {
    "vocab_size": "vocabulary",
    "max_position_embeddings": "sequence_length",
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "ffn",
    "rms_norm_eps": "norm_epsilon",
    "tie_word_embeddings": "tied",
}
_NOTHING = frozenset(
    (
        *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
        *("initializer_range", "use_cache", "cache_implementation", "bos_token_id", "eos_token_id", "pad_token_id"),
        *("id2label", "label2id", "problem_type", "return_dict", "output_hidden_states", "output_attentions"),
    )
)
"""They change nothing of what a training computes."""
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
_FIXED = {"attention_dropout": 0.0, "pretraining_tp": 1, "is_encoder_decoder": False, "chunk_size_feed_forward": 0}
_OF_ROTATIONS = frozenset(
    (
        *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"),
        *("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale"),
        *("mscale_all_dim", "truncate"),
    )
)


class ForeignModel(ValueError):
    """A configuration that our decoder cannot be: the message names the entry and both values."""


def shape_of(document: bytes) -> ModelShape:
    """The shape that a `config.json` describes. Raises ForeignModel where our decoder would compute something else, or
    something is said that nobody here understands."""
    raw = json.loads(document)
    kind = raw.get("model_type")
    family = FAMILIES.get(kind)
    if family is None:
        raise ForeignModel(f"{CONFIGURATION}: model_type is {kind!r}; it must be one of {', '.join(FAMILIES)}")
    settings = _completed(kind, raw)
    _refuse(settings, family)
    sizes = {ours: settings[theirs] for theirs, ours in _SIZES.items()}
    turns, local = _rotations(settings)
    return ModelShape(
        **sizes,
        rope_theta=turns.theta,
        rotation=turns if turns.stretch is not Stretch.NONE else None,
        head_size=_head_size(settings),
        style=replace(family.style(settings), family=kind, local=local if local != turns else None),
    )


def _completed(kind: str, raw: dict[str, Any]) -> dict[str, Any]:
    """As `transformers` understands it: defaults filled in, older spellings brought up to date."""
    from transformers import AutoConfig  # takes seconds, and only a first read needs it

    given = {key: value for key, value in raw.items() if key not in ("model_type", "transformers_version")}
    try:
        completed: dict[str, Any] = AutoConfig.for_model(kind, **given).to_dict()
    except (TypeError, ValueError, KeyError) as error:
        raise ForeignModel(f"{CONFIGURATION}: {error}") from error
    return completed


def _refuse(settings: Settings, family: Family) -> None:
    used = {*_SIZES, *_NOTHING, *_FIXED, *family.own, "rope_parameters", "head_dim"}
    fixed = {**_FIXED, **(family.fixed or {})}
    for name, value in settings.items():
        allowed = fixed.get(name)
        if name in fixed and value != allowed and not (isinstance(allowed, tuple) and value in allowed):
            wanted = allowed[0] if isinstance(allowed, tuple) else allowed
            raise ForeignModel(f"{CONFIGURATION}: {name} is {value!r}; it must be {wanted!r}")
        if name not in used and name not in fixed:
            raise ForeignModel(f"{CONFIGURATION}: nobody here knows what {name} ({value!r}) changes")


def _head_size(settings: Settings) -> int | None:
    """None where it follows from the other sizes."""
    given, heads = settings.get("head_dim"), settings["num_attention_heads"]
    return None if given is None or given * heads == settings["hidden_size"] else int(given)


def _rotations(settings: Settings) -> tuple[Rotation, Rotation]:
    """Of layers that see all, and of those with a window."""
    said = settings["rope_parameters"]
    if FULL not in said and SLIDING not in said:
        said = {FULL: said, SLIDING: said}
    return _rotation(said.get(FULL) or said[SLIDING], settings), _rotation(said.get(SLIDING) or said[FULL], settings)


def _rotation(said: Settings, settings: Settings) -> Rotation:
    kind = said.get("rope_type", "default")
    if unknown := sorted(set(said) - _OF_ROTATIONS):
        raise ForeignModel(f"{CONFIGURATION}: nobody here knows what {unknown[0]} of its rotation changes")
    if kind not in _READ:
        raise ForeignModel(f"{CONFIGURATION}: rope_type is {kind!r}; it must be one of {', '.join(_READ)}")
    return _READ[kind](said, int(settings["max_position_embeddings"]))


def _llama3(said: Settings, longest: int) -> Rotation:
    return Rotation(
        theta=float(said["rope_theta"]),
        stretch=Stretch.LLAMA3,
        factor=float(said["factor"]),
        original_length=int(said.get("original_max_position_embeddings") or longest),
        low=float(said["low_freq_factor"]),
        high=float(said["high_freq_factor"]),
    )


def _yarn(said: Settings, longest: int) -> Rotation:
    factor = float(said["factor"])
    return Rotation(
        theta=float(said["rope_theta"]),
        stretch=Stretch.YARN,
        factor=factor,
        original_length=int(said.get("original_max_position_embeddings") or longest),
        low=float(said.get("beta_slow") or 1),
        high=float(said.get("beta_fast") or 32),
        gain=_gain(said, factor),
        whole=bool(said.get("truncate", True)),
    )


def _gain(said: Settings, factor: float) -> float:
    """arXiv 2309.00071, section 3.4; two weights of it as DeepSeek's models have them."""

    def of(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if said.get("attention_factor") is not None:
        return float(said["attention_factor"])
    one, all_of_it = said.get("mscale"), said.get("mscale_all_dim")
    return of(one) / of(all_of_it) if one and all_of_it else of(1.0)


_READ = {
    "default": lambda said, _: Rotation(float(said["rope_theta"])),
    "linear": lambda said, _: Rotation(float(said["rope_theta"]), Stretch.LINEAR, float(said["factor"])),
    "llama3": _llama3,
    "yarn": _yarn,
}


def configuration(
    shape: ModelShape, dtype: torch.dtype, end_of_text: int, original: str | None = None
) -> dict[str, Any]:
    """`config.json`; the tokens that begin, end and pad a text are those of the `original` one, if there is one.

    The base of the rotation stands twice where it is one: version 5 of `transformers` moved it.
    """
    style, family = shape.style, FAMILIES[shape.style.family]
    rotation = _said(shape.turns)
    document: dict[str, Any] = {
        **{theirs: getattr(shape, ours) for theirs, ours in _SIZES.items()},
        "max_position_embeddings": shape.positions or shape.sequence_length,
        "architectures": [family.architecture],
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": str(dtype).removeprefix("torch."),
        "eos_token_id": end_of_text,
        "head_dim": shape.head_width,
        "initializer_range": 0.02,
        "model_type": style.family,
        "pad_token_id": None,
        "rope_parameters": rotation,
        "rope_theta": shape.turns.theta,
        "use_cache": True,
        **{name: value for name, value in (family.fixed or {}).items() if not isinstance(value, tuple)},
    }
    if style.local is not None:
        document["rope_parameters"] = {FULL: rotation, SLIDING: _said(style.local)}
        del document["rope_theta"]
    if original is not None:
        document |= {name: value for name, value in json.loads(original).items() if name in _SPECIAL}
    return document | _own(shape, family)


def _own(shape: ModelShape, family: Family) -> dict[str, Any]:
    """What this family says besides."""
    style = shape.style
    window = max(style.windows, default=0) or None
    values = {
        "attention_bias": style.output_bias,
        "mlp_bias": style.feed_forward_bias,
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "max_window_layers": shape.layers,
        "layer_types": [SLIDING if shape.window(layer) else FULL for layer in range(shape.layers)],
        "no_rope_layers": [int(shape.turned(layer)) for layer in range(shape.layers)],
        "query_pre_attn_scalar": _whole(style.query_scale),
        "attn_logit_softcapping": style.score_cap,
        "final_logit_softcapping": style.logit_cap,
    }
    values |= _experts(shape)
    return {name: value for name, value in values.items() if name in family.own}


def _experts(shape: ModelShape) -> dict[str, Any]:
    mixture = shape.style.mixture
    if mixture is None:
        return {}
    return {
        "num_experts": mixture.count,
        "num_local_experts": mixture.count,
        "num_experts_per_tok": mixture.chosen,
        "moe_intermediate_size": mixture.width,
        "shared_expert_intermediate_size": mixture.shared,
        "norm_topk_prob": mixture.normalised,
        "router_aux_loss_coef": mixture.balance,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer in range(shape.layers) if shape.mixture(layer) is None],
        "qkv_bias": shape.style.qkv_bias,
    }


def _whole(number: float | None) -> float | None:
    """An integer where it is one: `transformers` is strict about it."""
    return int(number) if number is not None and number.is_integer() else number


def _said(rotation: Rotation) -> dict[str, Any]:
    theta = {"rope_theta": rotation.theta}
    original = {"factor": rotation.factor, "original_max_position_embeddings": rotation.original_length}
    match rotation.stretch:
        case Stretch.NONE:
            return theta | {"rope_type": "default"}
        case Stretch.LINEAR:
            return theta | {"rope_type": "linear", "factor": rotation.factor}
        case Stretch.LLAMA3:
            bounds = {"low_freq_factor": rotation.low, "high_freq_factor": rotation.high}
            return theta | {"rope_type": "llama3", **original, **bounds}
        case Stretch.YARN:
            ramp = {"beta_fast": rotation.high, "beta_slow": rotation.low, "truncate": rotation.whole}
            return theta | {"rope_type": "yarn", **original, **ramp, "attention_factor": rotation.gain}
