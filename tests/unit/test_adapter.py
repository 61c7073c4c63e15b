"""Adapters: nothing changes until one is trained, nothing else is trained, and merged it says what it said beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tessera_trainer.adapter import Adapter, Pair, adapted, is_adapter, merged
from tessera_trainer.adapter_export import export_adapter
from tessera_trainer.flops import training_flops
from tessera_trainer.hugging_face import entries
from tessera_trainer.initialise import initialise
from tessera_trainer.micro_batch import MicroBatch, pack
from tessera_trainer.model import Decoder
from tessera_trainer.shape import ModelShape
from tessera_trainer.style import HeadNorm, Style

ADAPTER = Adapter(rank=3, alpha=6.0)
SHAPE = ModelShape(
    vocabulary=61,
    sequence_length=24,
    hidden=32,
    layers=2,
    heads=4,
    kv_heads=2,
    ffn=48,
    rope_theta=1e4,
    tied=True,
    style=Style(family="qwen3", head_norm=HeadNorm.HEAD, qkv_bias=True),
)


@pytest.fixture
def model() -> Decoder:
    """With an adapter that says something."""
    made = Decoder(SHAPE, adapter=ADAPTER).to_empty(device="cpu")
    initialise(made, 3)
    return made


def said_something(model: Decoder) -> Decoder:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def batch() -> MicroBatch:
    tokens = torch.randint(0, 61, (2, 25), generator=torch.Generator().manual_seed(5))
    return pack(tokens, torch.zeros_like(tokens))


def weights(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


def plain(model: Decoder, found: dict[str, Pair]) -> Decoder:
    """The model with the adapter in its weights."""
    other = Decoder(SHAPE).to_empty(device="cpu")
    other.load_state_dict(dict(merged(weights(model), adapted(model), found)))
    return other


def test_an_adapter_that_is_new_changes_nothing(model: Decoder) -> None:
    with torch.no_grad():
        assert torch.equal(model.logits(batch()), plain(model, {}).logits(batch()))


def test_merged_it_says_what_it_says_beside(model: Decoder) -> None:
    said_something(model)
    with torch.no_grad():
        beside, inside = model.logits(batch()), plain(model, {}).logits(batch())
    assert (beside - inside).abs().max().item() <= 1e-5
    assert beside.std() > 0.1


def test_nothing_but_the_adapter_is_trained(model: Decoder) -> None:
    loss, _ = said_something(model)(batch())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == is_adapter(name), name


def test_gradients_are_those_of_the_merged_weights_through_the_chain_rule(model: Decoder) -> None:
    said_something(model)
    other = plain(model, {})
    loss, _ = model(batch())
    loss.backward()
    whole, _ = other(batch())
    whole.backward()
    for name, layer in adapted(model).items():
        gradient = other.get_parameter(f"{name}.weight").grad
        assert gradient is not None
        ups = torch.split(layer.adapter_up, list(layer.rows))
        downs = torch.split(layer.adapter_down, ADAPTER.rank)
        parts = zip(torch.split(gradient, list(layer.rows)), ups, downs, strict=True)
        expected = [(ADAPTER.scale * up.T @ part, ADAPTER.scale * part @ down.T) for part, up, down in parts]
        assert layer.adapter_down.grad is not None
        assert layer.adapter_up.grad is not None
        torch.testing.assert_close(layer.adapter_down.grad, torch.cat([d for d, _ in expected]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.adapter_up.grad, torch.cat([u for _, u in expected]), rtol=1e-4, atol=1e-5)


def test_by_itself_it_has_the_names_and_shapes_that_peft_reads(model: Decoder, tmp_path: Path) -> None:
    """Each pair, added to the matrix of its name by PEFT's rule, gives what was merged."""
    found: dict[str, Pair] = {}
    inside = dict(weights(plain(said_something(model), found)))
    export_adapter(tmp_path, SHAPE, found, "file:///models/base")

    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    modules = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 6, "LORA")
    assert (config["target_modules"], config["base_model_name_or_path"]) == (modules, "file:///models/base")
    base = dict(weights(model))
    for entry in entries(SHAPE):
        parts = []
        cut = torch.split(base[entry.ours], [rows for _, rows in entry.theirs])
        for (name, rows), part in zip(entry.theirs, cut, strict=True):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            down = tensors.pop(f"{stem}.lora_A.weight", torch.zeros(3, part[0].numel()))
            up = tensors.pop(f"{stem}.lora_B.weight", torch.zeros(rows, 3))
            parts.append(part + (2.0 * up @ down).view_as(part))
        torch.testing.assert_close(torch.cat(parts), inside[entry.ours], rtol=1e-5, atol=1e-6)
    assert not tensors


def test_frozen_weights_have_no_gradients_to_compute() -> None:
    full = training_flops(SHAPE, 100, 0)
    assert training_flops(SHAPE, 100, 0, adapter=1000) == full * 2 // 3 + 3 * 2 * 1000 * 100
