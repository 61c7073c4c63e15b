"""A model that `transformers` has made, trained by `tessera local`, and exported as what it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from workload import Workload, build, dataset

from tessera_api.log import Open
from tessera_cli.run_log_entries import read_entries
from tessera_store import open_store
from tests.train.local_place import tessera_local

VOCABULARY = 512
pytestmark = pytest.mark.timeout(600)


def a_model(folder: Path) -> Any:
    """Qwen 3, with more rows than the tokenizer has tokens, in two files or more."""
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 32,
    }
    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCABULARY + 64, num_key_value_heads=2, max_position_embeddings=1024, **sizes
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size="100KB")
    return model.eval()


def trained(tmp_path: Path, model: str, learning_rate: str) -> tuple[int, str, Path]:
    run = Workload("llama-1m", 8, 64, 4, 2, 2, 1, 2).manifest("tuned", (tmp_path / "storage").as_uri())
    run["spec"]["model"] = {"from": {"uri": model}}
    run["spec"]["training"]["learningRate"] = learning_rate
    code, said = tessera_local(tmp_path, build(tmp_path / "data" / str(VOCABULARY), VOCABULARY), run)
    return code, said, tmp_path / "work" / "runs" / "tuned"


def test_a_model_of_others_on_s3_is_trained_and_exported_as_what_it_was(tmp_path: Path, s3_uri: str) -> None:
    folder = tmp_path / "model"
    theirs = a_model(folder)
    dataset(tmp_path / "data", VOCABULARY)
    (tokenizer,) = (tmp_path / "data" / str(VOCABULARY)).rglob("tokenizer.json")
    shutil.copy(tokenizer, folder)

    beside = {
        "chat_template.jinja": "{% for message in messages %}{{ message.content }}{% endfor %}",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}),
        "generation_config.json": json.dumps({"eos_token_id": [0, 3], "temperature": 0.6, "do_sample": True}),
    }
    for name, text in beside.items():
        (folder / name).write_text(text)
    config = json.loads((folder / "config.json").read_text()) | {"bos_token_id": 5, "eos_token_id": [0, 3]}
    (folder / "config.json").write_text(json.dumps(config))

    bucket = open_store(s3_uri)
    for file in folder.iterdir():
        bucket.put(f"models/qwen/{file.name}", file.read_bytes())

    code, said, run = trained(tmp_path, f"{s3_uri}/models/qwen", "1e-8")

    assert code == 0, said
    assert {name: (run / "export" / name).read_text() for name in beside} == beside
    again: Any = AutoModelForCausalLM.from_pretrained(run / "export")
    tokens = torch.randint(0, VOCABULARY, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (again(input_ids=tokens).logits - theirs(input_ids=tokens).logits).abs().max().item() <= 1e-4
    config = json.loads((run / "export" / "config.json").read_text())
    assert (type(again), config["max_position_embeddings"]) == (type(theirs), 1024)
    assert (config["bos_token_id"], config["eos_token_id"]) == (5, [0, 3])
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == pytest.approx(losses[-1], rel=0.05)


def test_a_model_with_another_tokenizer_is_refused_before_a_step(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    a_model(folder)
    (folder / "tokenizer.json").write_text("{}")

    code, said, run = trained(tmp_path, folder.as_uri(), "1e-3")

    assert code != 0
    assert "was built with tokenizer" in said, said
    assert not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text() == ""


def test_a_setting_that_nobody_here_knows_ends_the_run_at_its_first_start(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    a_model(folder)
    dataset(tmp_path / "data", VOCABULARY)
    (tokenizer,) = (tmp_path / "data" / str(VOCABULARY)).rglob("tokenizer.json")
    shutil.copy(tokenizer, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"router_dropout": 0.5}))

    code, said, _ = trained(tmp_path, folder.as_uri(), "1e-3")

    assert code != 0
    assert "config.json: nobody here knows what router_dropout (0.5) changes" in said, said
    entries = read_entries((tmp_path / "storage" / "tuned").as_uri())
    assert sum(isinstance(entry, Open) for entry in entries) == 1, "it is not tried again"
