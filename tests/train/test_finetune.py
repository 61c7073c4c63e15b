"""Fine-tuning by the command alone: conversations, a model that `transformers` made, answers that it learns to give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tessera_api.run_directory import RunDirectory
from tests.train.local_place import tessera_local
from tests.unit.chats import CHATML, a_chat_build, conversations

pytestmark = pytest.mark.timeout(600)
STEPS = 120


def a_model(folder: Path, tokenizer: Path) -> None:
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=448,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        eos_token_id=2,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def a_run(model: Path, storage: Path) -> dict[str, Any]:
    training = {
        "tokens": STEPS * 8 * 256,
        "seed": 7,
        "globalBatch": 8,
        "unit": 4,
        "learningRate": "3e-3",
        "schedule": {"kind": "cosine", "warmupSteps": 10},
    }
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "tuned"},
        "spec": {
            "method": "finetune",
            "model": {"from": {"uri": model.as_uri()}},
            "data": {"sequenceLength": 256, "mix": [{"dataset": "chats", "weight": "1"}]},
            "training": training,
            "nodes": {"count": 2, "max": 2},
            "checkpoint": {"every": 50},
            "storage": {"uri": storage.as_uri()},
        },
    }


def answered(export: Path, question: str) -> str:
    tokenizer: Any = AutoTokenizer.from_pretrained(export)
    model: Any = AutoModelForCausalLM.from_pretrained(export)
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**given, max_new_tokens=24, do_sample=False, pad_token_id=0)
    return str(tokenizer.decode(made[0, given["input_ids"].shape[1] :]))


def test_a_model_learns_to_answer_in_the_way_of_its_conversations(tmp_path: Path) -> None:
    build = a_chat_build(tmp_path, [{"messages": one} for one in conversations(1500, 21)])
    a_model(tmp_path / "model", tmp_path / "tokenizer.json")

    code, said = tessera_local(tmp_path, build, a_run(tmp_path / "model", tmp_path / "storage"))

    assert code == 0, said
    assert re.search(r"dataset chats: conversations of \d+ tokens, \d+\.\d % of them learned", said), said
    run = RunDirectory(tmp_path / "work" / "runs" / "tuned")
    assert re.search(r"Packed: chats: \d+ samples an epoch, \d\.\d\d % of them filled up; 0 tokens", said), said
    answer = answered(run.export, "What is 3 and 4?")
    assert re.fullmatch(r"It is \d+, [a-z]+\.<\|im_end\|>.*", answer, re.DOTALL), answer
    noted = [json.loads(line) for line in run.events.read_text().splitlines() if '"HeldOut: ' in line]
    before, after = (event["numbers"]["loss"] for event in noted)
    assert (before > 5, after < 1.6) == (True, True), (before, after)


def test_an_adapter_alone_is_trained_and_comes_out_both_ways(tmp_path: Path) -> None:
    build = a_chat_build(tmp_path, [{"messages": one} for one in conversations(600, 23)])
    a_model(tmp_path / "model", tmp_path / "tokenizer.json")
    run = a_run(tmp_path / "model", tmp_path / "storage")
    run["spec"]["training"] |= {"lora": {"rank": 8, "alpha": "16"}, "tokens": 40 * 8 * 256, "learningRate": "1e-2"}
    run["spec"]["checkpoint"] = {"every": 10}

    code, said = tessera_local(tmp_path, build, run)

    assert code == 0, said
    directory = RunDirectory(tmp_path / "work" / "runs" / "tuned")
    losses = [json.loads(line)["loss"] for line in directory.metrics.read_text().splitlines()]
    assert losses[-1] < losses[0] - 1.5
    base, merged = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", directory.export))
    adapter = load_file(directory.export / "adapter" / "adapter_model.safetensors")
    for name, weight in merged.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapter:
            more = 2.0 * adapter.pop(f"{stem}.lora_B.weight") @ adapter.pop(f"{stem}.lora_A.weight")
            assert more.abs().max() > 1e-3, name
            torch.testing.assert_close(weight, base[name] + more, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(weight, base[name]), f"{name} is frozen"
    assert not adapter


def test_text_is_not_for_finetuning_and_conversations_are_for_nothing_else(tmp_path: Path) -> None:
    build = a_chat_build(tmp_path, [{"messages": one} for one in conversations(40, 22)])
    a_model(tmp_path / "model", tmp_path / "tokenizer.json")
    run = a_run(tmp_path / "model", tmp_path / "storage")
    run["spec"]["method"] = "continue"

    code, said = tessera_local(tmp_path, build, run)

    assert code != 0
    assert "chats holds conversations, and method is continue: finetune takes datasets of content chat" in said, said
