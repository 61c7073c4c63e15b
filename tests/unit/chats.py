"""A tokenizer with the tokens of a chat template, the template, and conversations."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = ["ada", "bela", "carl", "dora", "emil", "fred", "gina", "hans", "inga", "jan", "kira", "lars", "mona"]


def a_tokenizer(vocabulary: int = 400) -> bytes:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for one in conversations(200, 1) for text in contents(one)], trainer)
    return tokenizer.to_str().encode()


def contents(conversation: list[dict[str, str]]) -> list[str]:
    return [message["content"] for message in conversation]


def conversations(count: int, seed: int) -> list[list[dict[str, str]]]:
    """Sums of small numbers, asked for by somebody, in one turn or several."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        messages = [{"role": "system", "content": f"You help {rng.choice(NAMES)}."}] if rng.random() < 0.3 else []
        for _ in range(rng.randint(1, 3)):
            one, two = rng.randint(0, 9), rng.randint(0, 9)
            messages.append({"role": "user", "content": f"What is {one} and {two}?"})
            messages.append({"role": "assistant", "content": f"It is {one + two}, {rng.choice(NAMES)}."})
        found.append(messages)
    return found


def a_chat_build(folder: Path, records: list[dict[str, Any]], **source: Any) -> dict[str, Any]:
    """The manifest of a build over these records; everything it needs lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chats").mkdir()
    (folder / "chats" / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = {"tokenizer.json": a_tokenizer(), "chat_template.jinja": CHATML.encode()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    pinned = {
        name: {"uri": (folder / name).as_uri(), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    provenance = {"owner": "nobody", "collected": "2026-11-01", "method": "made up", "synthetic": True}
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "DatasetBuild",
        "metadata": {"name": "chats"},
        "spec": {
            "content": "chat",
            "sources": [
                {
                    "name": "sums",
                    "uri": (folder / "chats").as_uri(),
                    "format": "jsonl",
                    "licence": "CC0-1.0",
                    "provenance": provenance,
                    **source,
                }
            ],
            "tokenizer": pinned["tokenizer.json"] | {"chatTemplate": pinned["chat_template.jinja"]},
            "heldOut": {"share": "0.1"},
            "output": {"uri": (folder / "datasets").as_uri()},
        },
    }
