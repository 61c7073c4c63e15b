"""The export, read by `transformers`: the same logits, the same tokens, and back into our own names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tessera_trainer.export import IncompleteWeights, TokenizerFile, export
from tessera_trainer.families import FAMILIES
from tessera_trainer.foreign_config import ForeignModel, configuration, shape_of
from tessera_trainer.initialise import initialise
from tessera_trainer.micro_batch import pack
from tessera_trainer.model import Decoder
from tessera_trainer.pretrained import read_shape, read_weights
from tessera_trainer.shape import ModelShape

TEXT = "def main():\n    return [word for word in sentence.split() if word]\n"
END = "<|end|>"


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerFile:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    end = made.token_to_id(END)
    assert end is not None
    return TokenizerFile(made.to_str().encode(), end)


def decoder(*, tied: bool = True) -> Decoder:
    """A model whose norms are not 1 and whose weights are large enough for attention to choose."""
    shape = ModelShape(
        vocabulary=300,
        sequence_length=64,
        hidden=48,
        layers=2,
        heads=6,
        kv_heads=2,
        ffn=80,
        rope_theta=5000.0,
        tied=tied,
    )
    model = Decoder(shape).to_empty(device="cpu")
    initialise(model, seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() == 2 else 1.3)
    return model


def weights(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


def listing(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


WHOLE_EXPORT = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("limit_bytes", [2**30, 20_000])
def test_transformers_gives_our_logits(tmp_path: Path, tokenizer: TokenizerFile, tied: bool, limit_bytes: int) -> None:
    model = decoder(tied=tied)
    tokens = torch.randint(0, 300, (3, 65), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.logits(pack(tokens, torch.zeros_like(tokens))).view(3, 64, 300)

    export(tmp_path / "export", model.shape, weights(model), tokenizer, limit_bytes=limit_bytes)

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export", local_files_only=True)
    with torch.no_grad():
        logits = theirs(input_ids=tokens[:, :-1]).logits
    assert ours.std() > 0.5
    assert (logits - ours).abs().max().item() <= 1e-4


def test_transformers_gives_the_tokens_of_our_tokenizer(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    model = decoder()
    export(tmp_path / "export", model.shape, weights(model), tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "export", local_files_only=True)
    expected = Tokenizer.from_buffer(tokenizer.json).encode(TEXT).ids
    assert theirs(TEXT)["input_ids"] == expected
    assert theirs.decode(expected) == TEXT
    assert (theirs.eos_token, theirs.eos_token_id) == (END, tokenizer.end_of_text)
    assert (tmp_path / "export" / "tokenizer.json").read_bytes() == tokenizer.json


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("limit_bytes", [2**30, 20_000])
def test_an_export_reads_back_to_the_bit(
    tmp_path: Path, tokenizer: TokenizerFile, tied: bool, limit_bytes: int
) -> None:
    model = decoder(tied=tied)
    export(tmp_path / "export", model.shape, weights(model), tokenizer, limit_bytes=limit_bytes)
    assert read_shape(tmp_path / "export") == model.shape
    found = dict(read_weights(tmp_path / "export", model.shape))
    expected = dict(weights(model))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_larger_than_the_limit_has_numbered_files_and_an_index(
    tmp_path: Path, tokenizer: TokenizerFile
) -> None:
    model = decoder(tied=False)
    export(tmp_path / "export", model.shape, weights(model), tokenizer, limit_bytes=20_000)
    index = json.loads((tmp_path / "export" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    contents = {file: load_file(tmp_path / "export" / file) for file in files}
    assert files == [f"model-{place + 1:05d}-of-{len(files):05d}.safetensors" for place in range(len(files))]
    assert {name: file for file, tensors in contents.items() for name in tensors} == index["weight_map"]
    assert index["metadata"]["total_size"] == 4 * model.shape.parameters
    assert all(
        len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 20_000
        for tensors in contents.values()
    )


def test_an_export_in_bf16_is_half_the_size_and_says_so(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    model = decoder()
    export(tmp_path / "export", model.shape, weights(model), tokenizer, torch.bfloat16)
    tensors = load_file(tmp_path / "export" / "model.safetensors")
    assert sum(tensor.nbytes for tensor in tensors.values()) == 2 * model.shape.parameters
    assert json.loads((tmp_path / "export" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_export_takes_the_place_of_an_earlier_one_and_leaves_nothing_beside_it(
    tmp_path: Path, tokenizer: TokenizerFile
) -> None:
    first, second = decoder(tied=False), decoder()
    export(tmp_path / "export", first.shape, weights(first), tokenizer, limit_bytes=20_000)
    export(tmp_path / "export", second.shape, weights(second), tokenizer)
    assert listing(tmp_path) == {"export"}
    assert listing(tmp_path / "export") == WHOLE_EXPORT


def test_an_export_that_breaks_off_leaves_the_earlier_one_as_it_was(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    model = decoder()
    export(tmp_path / "export", model.shape, weights(model), tokenizer)
    before = (tmp_path / "export" / "model.safetensors").read_bytes()
    given = [(name, weight * 2) for name, weight in weights(model)]
    with pytest.raises(IncompleteWeights, match=r"^1 weights are missing, norm\.weight the first of them$"):
        export(tmp_path / "export", model.shape, given[:-1], tokenizer)
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == before
    export(tmp_path / "export", model.shape, given, tokenizer)
    assert listing(tmp_path) == {"export"}


def test_an_export_that_is_overtaken_while_it_is_paused_harms_nothing(tmp_path: Path, tokenizer: TokenizerFile) -> None:
    """A node is stopped in its export, another takes its place, and the first one goes on afterwards."""
    model = decoder()

    def paused() -> Iterator[tuple[str, Tensor]]:
        given = list(weights(model))
        yield from given[:2]
        export(tmp_path / "export", model.shape, weights(model), tokenizer)
        yield from given[2:]

    with pytest.raises((OSError, SafetensorError)):
        export(tmp_path / "export", model.shape, paused(), tokenizer, limit_bytes=20_000)
    assert listing(tmp_path) == {"export"}
    assert listing(tmp_path / "export") == WHOLE_EXPORT


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model_type", "gpt2", f"config.json: model_type is 'gpt2'; it must be one of {', '.join(FAMILIES)}"),
        ("hidden_act", "gelu", "config.json: hidden_act is 'gelu'; it must be 'silu'"),
        ("attention_dropout", 0.1, "config.json: attention_dropout is 0.1; it must be 0.0"),
        ("mystery", 1, "config.json: nobody here knows what mystery (1) changes"),
        (
            "rope_parameters",
            {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            "config.json: rope_type is 'dynamic'; it must be one of default, linear, llama3, yarn",
        ),
    ],
)
def test_a_model_that_ours_cannot_be_is_refused(name: str, value: object, message: str) -> None:
    ours = configuration(decoder().shape, torch.float32, 0)
    with pytest.raises(ForeignModel) as refusal:
        shape_of(json.dumps(ours | {name: value}).encode())
    assert str(refusal.value) == message


def test_lines_are_generated_from_an_export_and_are_the_same_each_time(
    tmp_path: Path, tokenizer: TokenizerFile
) -> None:
    model = decoder()
    export(tmp_path / "export", model.shape, weights(model), tokenizer)
    command = [sys.executable, "-m", "tessera_trainer.generate", str(tmp_path / "export"), "--prompt", "def main("]
    runs = [
        subprocess.run([*command, "--tokens", "8"], capture_output=True, text=True, timeout=60, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].startswith("--- greedy\ndef main(")
    assert "--- sampled, seed 1\ndef main(" in runs[0]
    nothing = subprocess.run(
        [*command[:3], str(tmp_path / "nothing"), "--prompt", "a"], capture_output=True, text=True, timeout=60
    )
    assert nothing.returncode == 1
    assert "is no exported model" in nothing.stderr
