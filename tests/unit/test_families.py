"""Families: small models with random weights, made by `transformers`, are the reference for logits and for files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from tessera_trainer.export import TokenizerFile, export
from tessera_trainer.families import FAMILIES
from tessera_trainer.foreign_config import ForeignModel, configuration, shape_of
from tessera_trainer.micro_batch import IGNORED, MicroBatch, pack
from tessera_trainer.model import Decoder
from tessera_trainer.pretrained import read_shape, read_weights

VOCABULARY, LENGTH = 160, 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": LENGTH,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 24}
ALTERNATE = ["sliding_attention", "full_attention"] * 2
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-2": ("llama", {"tie_word_embeddings": False}),
    "llama-3": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("llama", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "mistral-without-window": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen-2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen-2-windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}),
    "qwen-2-yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen-3": ("qwen3", {"head_dim": 16, "rope_parameters": YARN | {"beta_fast": 16.0, "beta_slow": 2.0}}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma-2": (
        "gemma2",
        {
            "layer_types": ALTERNATE,
            "sliding_window": 24,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma-3": (
        "gemma3_text",
        {
            "layer_types": ALTERNATE,
            "sliding_window": 24,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            },
        },
    ),
    "olmo-2": ("olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.0}),
    "qwen-2-experts": (
        "qwen2_moe",
        {
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "router_aux_loss_coef": 0.0,
        },
    ),
    "qwen-3-experts": (
        "qwen3_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "router_aux_loss_coef": 0.0,
            "mlp_only_layers": [1],
            "head_dim": 16,
        },
    ),
    "olmoe": ("olmoe", {"num_experts": 6, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.0}),
    "smollm-3": ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}),
}


def reference(kind: str, settings: dict[str, Any]) -> Any:
    """A model whose norms and biases say something and whose attention chooses."""
    torch.manual_seed(11)
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim" or not kind.startswith("olmo")}
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **(sizes | settings)), attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(parameter * 4 if parameter.dim() == 2 else parameter + noise * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Its folder, and the model."""
    made: dict[str, tuple[Path, Any]] = {}

    def get(case: str) -> tuple[Path, Any]:
        if case not in made:
            model, folder = reference(*CASES[case]), tmp_path_factory.mktemp("models") / case
            model.save_pretrained(folder, max_shard_size="60KB")
            made[case] = folder, model
        return made[case]

    return get


def ours_of(folder: Path) -> Decoder:
    shape = read_shape(folder)
    model = Decoder(shape).to_empty(device="cpu")
    weights = dict(read_weights(folder, shape))
    assert set(weights) == {name for name, _ in model.named_parameters()}
    assert list(weights) == [name for name, _ in model.named_parameters()]
    model.load_state_dict(weights)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(3))


def rows_of(given: Tensor) -> MicroBatch:
    return pack(given, torch.zeros_like(given))


def test_the_cases_are_all_families() -> None:
    assert {kind for kind, _ in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_logits_losses_and_gradients_are_those_of_transformers(
    saved: Callable[[str], tuple[Path, Any]], case: str
) -> None:
    folder, theirs = saved(case)
    ours, given = ours_of(folder), tokens(2, LENGTH)
    batch = rows_of(given)
    logits = ours.logits(batch).view(2, LENGTH, VOCABULARY)
    expected = theirs(input_ids=given[:, :-1]).logits

    assert expected.std() > 0.3
    assert (logits - expected).abs().max().item() <= 1e-4
    assert sum(parameter.numel() for parameter in ours.parameters()) == ours.shape.parameters
    loss, count = ours(batch)
    plain = functional.cross_entropy(expected.flatten(0, 1), given[:, 1:].flatten(), reduction="sum")
    assert count == 2 * LENGTH
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-4)
    found = dict(zip(dict(ours.named_parameters()), torch.autograd.grad(loss, list(ours.parameters())), strict=True))
    gradients = torch.autograd.grad(plain, list(theirs.parameters()), allow_unused=True)
    embedding = dict(zip(dict(theirs.named_parameters()), gradients, strict=True))["model.embed_tokens.weight"]
    torch.testing.assert_close(found["embedding.weight"], embedding, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_in_bf16_logits_are_those_of_transformers(saved: Callable[[str], tuple[Path, Any]], case: str) -> None:
    """Both round; how far each is from float32 is alike. (The median position: of experts, rounding may choose
    others.)"""
    folder, theirs = saved(case)
    given = tokens(1, LENGTH)
    with torch.no_grad():
        exact = theirs(input_ids=given[:, :-1]).logits[0]
        narrow = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager")
        expected = narrow(input_ids=given[:, :-1]).logits[0].float()
        logits = ours_of(folder).to(torch.bfloat16).logits(rows_of(given))

    off, theirs_off = ((found - exact).norm(dim=-1).median() / exact.norm() for found in (logits, expected))
    assert off <= 1.5 * theirs_off


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_was_read_is_written_as_it_was(
    saved: Callable[[str], tuple[Path, Any]], case: str, tmp_path: Path, tokenizer: TokenizerFile
) -> None:
    folder, theirs = saved(case)
    ours = ours_of(folder)
    export(tmp_path / "export", ours.shape, ((name, one.detach()) for name, one in ours.named_parameters()), tokenizer)

    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "export", attn_implementation="eager")
    given = tokens(1, LENGTH)[:, :-1]
    with torch.no_grad():
        assert (again(input_ids=given).logits - theirs(input_ids=given).logits).abs().max().item() <= 1e-5
    assert type(again) is type(theirs)
    assert read_shape(tmp_path / "export") == ours.shape


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerFile:
    from tokenizers import Tokenizer, models

    return TokenizerFile(Tokenizer(models.WordLevel({"<|end|>": 0, "a": 1}, unk_token="a")).to_str().encode(), 0)


@pytest.mark.parametrize("case", CASES)
def test_packed_documents_of_every_family_do_not_see_each_other(
    saved: Callable[[str], tuple[Path, Any]], case: str
) -> None:
    ours, given = ours_of(saved(case)[0]), tokens(1, LENGTH)
    segments = (torch.arange(LENGTH + 1) >= 40).long()[None]
    with torch.no_grad():
        together = ours.logits(pack(given, segments))
        alone = torch.cat([ours.logits(rows_of(given[:, :41])), ours.logits(rows_of(given[:, 40:]))])

    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["mistral", "gemma-2", "qwen-2-experts"])
def test_compiled_blocks_of_styles_with_operators_of_our_own_are_whole_graphs(
    saved: Callable[[str], tuple[Path, Any]], case: str
) -> None:
    ours, batch = ours_of(saved(case)[0]), rows_of(tokens(1, LENGTH))
    loss, _ = ours(batch)
    expected = torch.autograd.grad(loss, list(ours.parameters()))
    for layer in ours.layers:
        layer.compile(dynamic=False, fullgraph=True, backend="aot_eager")
    loss, _ = ours(batch)

    for found, wanted in zip(torch.autograd.grad(loss, list(ours.parameters())), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def old_spellings() -> Iterator[Any]:
    common = {key: value for key, value in SIZES.items() if key != "head_dim"}
    stretched = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    yield pytest.param({**common, "model_type": "llama", "rope_theta": 5e4, "rope_scaling": stretched}, id="llama-3")
    yield pytest.param({**common, "model_type": "qwen2", "rope_theta": 1e6, "torch_dtype": "bfloat16"}, id="qwen-2")


@pytest.mark.parametrize("document", list(old_spellings()))
def test_files_of_older_versions_are_understood(document: dict[str, Any]) -> None:
    shape = shape_of(json.dumps(document).encode())
    assert shape.rope_theta == document["rope_theta"]
    assert (shape.rotation is None) == ("rope_scaling" not in document)


@pytest.mark.parametrize("case", CASES)
def test_a_shape_is_what_its_own_configuration_says(saved: Callable[[str], tuple[Path, Any]], case: str) -> None:
    shape = read_shape(saved(case)[0])
    assert shape_of(json.dumps(configuration(shape, torch.float32, 0)).encode()) == shape


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "mystery"}, "model_type is 'mystery'; it must be one of llama, mistral,"),
        ({"secret_sauce": 3}, "nobody here knows what secret_sauce (3) changes"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1; it must be 0.0"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; it must be 'silu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "sauce": 1}}, "what sauce of its rotation"),
        ({"auto_map": {"AutoModel": "code.py"}}, "nobody here knows what auto_map"),
        ({"quantization_config": {"bits": 4}}, "nobody here knows what quantization_config"),
    ],
)
def test_what_is_not_understood_is_refused(settings: dict[str, Any], words: str) -> None:
    document = {"model_type": "llama", **SIZES, **settings}
    with pytest.raises(ForeignModel) as refusal:
        shape_of(json.dumps(document).encode())
    assert words in str(refusal.value)


@pytest.mark.parametrize("case", CASES)
def test_the_likeliest_text_is_that_of_transformers(saved: Callable[[str], tuple[Path, Any]], case: str) -> None:
    """200 tokens, far beyond the rows that it says it is made for."""
    folder, theirs = saved(case)
    ours, given = ours_of(folder), tokens(1, 8)[:, :8]
    expected = theirs.generate(given, max_new_tokens=200, min_new_tokens=200, do_sample=False, use_cache=True)
    found = given
    with torch.no_grad():
        for _ in range(200):
            padded = torch.cat([found, found[:, :1]], dim=1)
            likeliest = ours.logits(rows_of(padded))[-1]
            likeliest[0] = -torch.inf  # `min_new_tokens`: no end
            found = torch.cat([found, likeliest.argmax()[None, None]], dim=1)

    assert found.tolist() == expected.tolist()


def test_experts_are_kept_evenly_used_by_the_loss_of_transformers(tmp_path: Path) -> None:
    settings = CASES["qwen-3-experts"][1] | {"num_hidden_layers": 1, "mlp_only_layers": [], "router_aux_loss_coef": 0.5}
    theirs = reference("qwen3_moe", settings)
    theirs.save_pretrained(tmp_path)
    ours, given = ours_of(tmp_path), tokens(2, LENGTH)
    said = theirs(input_ids=given[:, :-1], output_router_logits=True)
    plain = functional.cross_entropy(said.logits.flatten(0, 1), given[:, 1:].flatten(), reduction="sum")
    loss, count = ours(rows_of(given))

    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-4)
    found = torch.autograd.grad(loss, ours.get_parameter("layers.0.feed_forward.router.weight"))[0]
    expected = torch.autograd.grad(plain + 0.5 * count * said.aux_loss, theirs.model.layers[0].mlp.gate.weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_of_experts_only_those_that_are_chosen_count_as_work(saved: Callable[[str], tuple[Path, Any]]) -> None:
    shape = read_shape(saved("qwen-3-experts")[0])
    assert shape.parameters - shape.active_parameters == 3 * (6 - 3) * 3 * 48 * 24, "three layers have experts"


def test_ignored_targets_count_nothing_under_a_cap(saved: Callable[[str], tuple[Path, Any]]) -> None:
    ours, batch = ours_of(saved("gemma-2")[0]), rows_of(tokens(1, LENGTH))
    losses = [ours(batch)[0].item()]
    batch.targets[10:20] = IGNORED
    losses.append(ours(batch)[0].item())
    assert losses[1] < losses[0]
