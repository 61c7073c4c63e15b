"""Families: the model types of `transformers` that our decoder can be, and what makes each of them.

A family here is a set of rules for reading and writing one kind of `config.json`; the decoder itself knows choices
(`style`) and no families. Settings are read as `transformers` itself completes and normalises them (defaults of the
family, old spellings); what is neither used here nor known to change nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tessera_trainer.style import Activation, HeadNorm, Mixture, Norms, Style

Settings = Mapping[str, Any]
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class ExpertNames:
    """What experts and their matrices are called."""

    part: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


_NAMES = ExpertNames()


@dataclass(frozen=True)
class Family:
    """One model type."""

    architecture: str
    style: Callable[[Settings], Style]
    own: frozenset[str] = frozenset()
    """Settings that `style` reads, beyond those of all families."""
    fixed: Mapping[str, Any] | None = None
    """Settings that must have this value."""
    norm_from_one: bool = False
    """Its norms multiply by 1 + weight (Gemma): ours have the 1 in them."""
    expert_names: ExpertNames = _NAMES


def _windows(settings: Settings) -> tuple[int, ...]:
    """By layer, as `layer_types` says; empty where no layer has one."""
    width = settings.get("sliding_window") or 0
    windows = tuple(width if kind == SLIDING else 0 for kind in settings.get("layer_types") or ())
    return windows if any(windows) else ()


def _llama(settings: Settings) -> Style:
    bias = bool(settings["attention_bias"])
    return Style(qkv_bias=bias, output_bias=bias, feed_forward_bias=bool(settings["mlp_bias"]))


def _mistral(settings: Settings) -> Style:
    width = settings["sliding_window"]
    return Style(windows=(width,) * settings["num_hidden_layers"] if width else ())


def _qwen2(settings: Settings) -> Style:
    return Style(qkv_bias=True, windows=_windows(settings))


def _qwen3(settings: Settings) -> Style:
    bias = bool(settings["attention_bias"])
    return Style(head_norm=HeadNorm.HEAD, qkv_bias=bias, output_bias=bias, windows=_windows(settings))


def _olmo2(settings: Settings) -> Style:
    bias = bool(settings["attention_bias"])
    return Style(norms=Norms.AFTER, head_norm=HeadNorm.WHOLE, qkv_bias=bias, output_bias=bias)


def _smollm3(settings: Settings) -> Style:
    bias, turned = bool(settings["attention_bias"]), settings["no_rope_layers"]
    return Style(
        qkv_bias=bias,
        output_bias=bias,
        feed_forward_bias=bool(settings["mlp_bias"]),
        windows=_windows(settings),
        unturned=tuple(not turns for turns in turned) if not all(turned) else (),
    )


def _gemma(settings: Settings) -> Style:
    bias = bool(settings["attention_bias"])
    return Style(activation=Activation.GELU_TANH, scaled_embedding=True, qkv_bias=bias, output_bias=bias)


def _gemma2(settings: Settings) -> Style:
    bias = bool(settings["attention_bias"])
    return Style(
        norms=Norms.AROUND,
        activation=Activation.GELU_TANH,
        scaled_embedding=True,
        qkv_bias=bias,
        output_bias=bias,
        query_scale=float(settings["query_pre_attn_scalar"]),
        score_cap=settings["attn_logit_softcapping"],
        logit_cap=settings["final_logit_softcapping"],
        windows=_windows(settings),
    )


def _gemma3(settings: Settings) -> Style:
    return replace(_gemma2(settings), head_norm=HeadNorm.HEAD)


def _mixture(settings: Settings, width: str, *, shared: int = 0) -> Mixture:
    """`width`: the setting that says how wide an expert is."""
    layers, rare = range(settings["num_hidden_layers"]), set(settings.get("mlp_only_layers") or ())
    step = settings.get("decoder_sparse_step") or 1
    dense = tuple(layer in rare or (layer + 1) % step != 0 for layer in layers)
    count = settings["num_local_experts"] if "num_local_experts" in settings else settings["num_experts"]
    return Mixture(
        count=count,
        chosen=settings["num_experts_per_tok"],
        width=settings[width],
        normalised=bool(settings.get("norm_topk_prob", True)),
        shared=shared,
        balance=float(settings["router_aux_loss_coef"]),
        dense=dense if any(dense) else (),
    )


def _mixtral(settings: Settings) -> Style:
    return replace(_mistral(settings), mixture=_mixture(settings, "intermediate_size"))


def _qwen2_moe(settings: Settings) -> Style:
    mixture = _mixture(settings, "moe_intermediate_size", shared=settings["shared_expert_intermediate_size"])
    return Style(qkv_bias=bool(settings["qkv_bias"]), windows=_windows(settings), mixture=mixture)


def _qwen3_moe(settings: Settings) -> Style:
    width = settings.get("sliding_window") or 0
    windows = (width,) * settings["num_hidden_layers"] if width else ()
    return replace(_qwen3(settings), windows=windows, mixture=_mixture(settings, "moe_intermediate_size"))


def _olmoe(settings: Settings) -> Style:
    bias = bool(settings["attention_bias"])
    mixture = _mixture(settings, "intermediate_size")
    return Style(head_norm=HeadNorm.WHOLE, qkv_bias=bias, output_bias=bias, mixture=mixture)


_LAYERED = frozenset(("layer_types", "sliding_window"))
_QWEN = _LAYERED | {"use_sliding_window", "max_window_layers"}
_GEMMA2 = _LAYERED | {
    *("hidden_activation", "attention_bias", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "_sliding_window_pattern"),
}
_EXPERTS = frozenset(
    ("num_experts", "num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "output_router_logits")
)
"""The last says whether `transformers` adds the balance to its loss; here the weight alone does."""
_SPARSE = _EXPERTS | {"moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"}
_SILU = {"hidden_act": "silu"}
_GELU = {"hidden_activation": "gelu_pytorch_tanh", "use_bidirectional_attention": (None, False)}

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", _llama, frozenset(("attention_bias", "mlp_bias")), _SILU),
    "mistral": Family("MistralForCausalLM", _mistral, frozenset(("sliding_window",)), _SILU),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, _QWEN, _SILU),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, _QWEN | {"attention_bias"}, _SILU),
    "olmo2": Family("Olmo2ForCausalLM", _olmo2, frozenset(("attention_bias",)), _SILU),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        _smollm3,
        _LAYERED | {"attention_bias", "mlp_bias", "use_sliding_window", "no_rope_layers", "no_rope_layer_interval"},
        _SILU,
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        _mixtral,
        _EXPERTS | {"sliding_window"},
        _SILU | {"router_jitter_noise": 0.0},
        expert_names=ExpertNames("block_sparse_moe", "w1", "w3", "w2"),
    ),
    "qwen2_moe": Family(
        "Qwen2MoeForCausalLM", _qwen2_moe, _QWEN | _SPARSE | {"qkv_bias", "shared_expert_intermediate_size"}, _SILU
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", _qwen3_moe, _SPARSE | {"attention_bias", "sliding_window", "use_sliding_window"}, _SILU
    ),
    "olmoe": Family(
        "OlmoeForCausalLM",
        _olmoe,
        _EXPERTS | {"attention_bias", "norm_topk_prob"},
        _SILU | {"clip_qkv": None},
    ),
    "gemma": Family(
        "GemmaForCausalLM",
        _gemma,
        frozenset(("attention_bias",)),
        {"hidden_act": "gelu_pytorch_tanh", "use_bidirectional_attention": (None, False)},
        norm_from_one=True,
    ),
    "gemma2": Family("Gemma2ForCausalLM", _gemma2, _GEMMA2, _GELU, norm_from_one=True),
    "gemma3_text": Family("Gemma3ForCausalLM", _gemma3, _GEMMA2, _GELU, norm_from_one=True),
}
