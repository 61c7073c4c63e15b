"""Fine-tuning beside TRL's SFTTrainer on this machine's CPUs: the same model, conversations, order and settings.

python benchmarks/finetune_peers.py --trl FOLDER [--quick]: a JSON line a figure. FOLDER has TRL and what it needs
(`uv pip install --no-deps --target FOLDER trl datasets accelerate dill multiprocess xxhash pandas python-dateutil pytz
six psutil`); torch and transformers are our own. About 20 million parameters, float32, all cores.

- Loss: conversations of which no two fit into one sample, so that a step has the same ones on both sides; the largest
  relative difference of a step's loss.
- Speed: short chats. We pack them; TRL pads each micro-batch to its longest, which is its default, with as many
  conversations a step as we have, and in groups of its own. Tokens of conversations a second, fillers not counted, from
  the third step on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import line

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from tessera_data.manifest import Split  # noqa: E402
from tessera_data.order import Component, Order, SkipList  # noqa: E402
from tessera_data.packed_stream import PackedStream  # noqa: E402
from tessera_data.reader import Dataset  # noqa: E402
from tests.unit.chats import a_chat_build  # noqa: E402

NAME, SEED, RATE, DECAY = "chats", 7, "1e-3", "0.01"
WARM_STEPS = 2
LIMIT_S = 1800.0
Conversation = list[dict[str, str]]
Step = list[dict[str, list[int]]]


@dataclass(frozen=True)
class Work:
    """One fine-tuning."""

    sequence: int
    batch: int
    """Samples a step,"""
    micro_batch: int
    """and conversations that TRL takes at a time."""
    steps: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trl", type=Path, required=True)
    options = parser.parse_args()
    layers = 2 if options.quick else 8
    alone = Work(128, 8, 8, 4 if options.quick else 30)
    packed = Work(512, 8, 8, 4 if options.quick else 12)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = both(Path(folder) / "alone", long_ones(400), alone, layers, options.trl)
        off = [abs(a - b) / b for a, b in zip(ours["loss"], theirs["loss"], strict=True)]
        worst = [1e6 * max(off)]
        print(line("fine-tuning beside TRL: loss of a step", worst, "millionths off", 1000, options.quick), flush=True)
        ours, theirs = both(Path(folder) / "packed", short_ones(4000), packed, layers, options.trl)
        for name, found in (("Tessera", ours), ("TRL", theirs)):
            print(
                line(f"fine-tuning on short chats: {name}", rates(found), "tokens/s", None, options.quick), flush=True
            )
        ratio = float(np.median(rates(ours)) / np.median(rates(theirs)))
        print(
            line("fine-tuning on short chats: Tessera beside TRL", [ratio], "times/s", 1.3, options.quick), flush=True
        )


def rates(found: dict[str, list[float]]) -> list[float]:
    """Tokens of conversations a second, step by step."""
    pairs = zip(found["tokens"][WARM_STEPS:], found["seconds"][WARM_STEPS:], strict=True)
    return [tokens / seconds for tokens, seconds in pairs]


def both(
    folder: Path, conversations: list[Conversation], work: Work, layers: int, trl: Path
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """{"loss", "tokens", "seconds"} of each step, ours and TRL's."""
    build = a_chat_build(folder, [{"messages": one} for one in conversations])
    model = folder / "model"
    base_model(model, layers, (folder / "tokenizer.json").read_bytes())
    run = manifest(model, folder / "storage", work)
    (folder / "all.yaml").write_text("\n---\n".join(map(json.dumps, (build, run))))
    place = folder / "work"
    command = [sys.executable, "-m", "tessera_cli", "local", str(folder / "all.yaml"), "--workdir", str(place)]
    path = os.pathsep.join(str(ROOT / each) for each in ("crds", "operator", "trainer_image"))
    subprocess.run(command, check=True, stdout=sys.stderr, timeout=LIMIT_S, env={**os.environ, "PYTHONPATH": path})
    lines = (place / "runs" / "tuned" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(each) for each in lines]
    [uri] = (folder / "datasets").rglob("manifest.json")
    read = list(taken(uri.as_uri(), folder / "cache", work))
    ours = {
        "loss": [step["loss"] for step in steps],
        "seconds": [step["seconds"] for step in steps],
        "tokens": tokens_of(read),
    }
    given = read if len({len(step) for step in read}) == 1 else regrouped(read, work.micro_batch)
    (folder / "steps.json").write_text(json.dumps(given))
    asked: dict[str, Any] = {
        "model": str(model),
        "steps": str(folder / "steps.json"),
        "out": str(folder / "theirs.json"),
    }
    asked |= {"trl": str(trl), "rate": float(RATE), "decay": float(DECAY), "micro_batch": work.micro_batch}
    asked |= {"threads": len(os.sched_getaffinity(0))}
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("trl_run.py")), json.dumps(asked)],
        check=True,
        stdout=sys.stderr,
        timeout=LIMIT_S,
    )
    theirs: dict[str, list[float]] = json.loads((folder / "theirs.json").read_text())
    return ours, theirs | {"tokens": tokens_of(given)}


def tokens_of(steps: list[Step]) -> list[float]:
    """Of the conversations of each step."""
    return [float(sum(len(each["input_ids"]) for each in step)) for step in steps]


def regrouped(steps: list[Step], micro_batch: int) -> list[Step]:
    """The same conversations in the same order, as many in each step, whole micro-batches of them."""
    flat = [each for step in steps for each in step]
    count = len(flat) // len(steps) // micro_batch * micro_batch
    return [flat[place * count : (place + 1) * count] for place in range(len(steps))]


def taken(uri: str, cache: Path, work: Work) -> Iterator[Step]:
    """The conversations of each step, as our run took them: their tokens, and which are learned."""
    stream = Dataset.open(uri, cache).stream(Split.TRAIN, work.sequence)
    assert isinstance(stream, PackedStream)
    order = Order(SEED, (Component(NAME, stream.samples, Fraction(1)),), SkipList())
    for step in range(work.steps):
        positions = np.arange(step * work.batch, (step + 1) * work.batch, dtype=np.int64)
        batch = stream.read(order.locate(positions).sample)
        found = []
        for row, segments in zip(batch.tokens, batch.segments(), strict=True):
            parts = [row[segments == number] for number in range(segments.max() + 1)]
            learned = [part for part in parts if (part < 0).any()]
            found += [
                {"input_ids": (part & 0x7FFFFFFF).tolist(), "completion_mask": (part < 0).astype(int).tolist()}
                for part in learned
            ]
        yield found


def base_model(folder: Path, layers: int, tokenizer: bytes) -> None:
    """A decoder with random weights, as `transformers` saves it."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        )
    )


def manifest(model: Path, storage: Path, work: Work) -> dict[str, Any]:
    """The TrainingRun: one process, with all threads, at one learning rate."""
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "tuned"},
        "spec": {
            "method": "finetune",
            "model": {"from": {"uri": model.as_uri()}},
            "data": {"sequenceLength": work.sequence, "mix": [{"dataset": NAME, "weight": "1"}]},
            "training": {
                "tokens": work.steps * work.batch * work.sequence,
                "seed": SEED,
                "globalBatch": work.batch,
                "unit": work.batch // 2,
                "learningRate": RATE,
                "weightDecay": DECAY,
                "schedule": {"kind": "wsd", "warmupSteps": 1, "decayShare": "0.000001"},
            },
            "nodes": {"count": 1, "max": 1},
            "checkpoint": {"every": 1000},
            "storage": {"uri": storage.as_uri()},
        },
    }


def long_ones(count: int) -> list[Conversation]:
    """Of 70 to 120 tokens."""
    rng = random.Random(5)
    return [
        [
            {"role": "user", "content": " ".join(f"What is {rng.randint(0, 9)}?" for _ in range(rng.randint(8, 10)))},
            {"role": "assistant", "content": f"It is {rng.randint(0, 99)}, {rng.randint(0, 99)}."},
        ]
        for _ in range(count)
    ]


def short_ones(count: int) -> list[Conversation]:
    """Of 20 to 400 tokens, most of them short."""
    rng = random.Random(6)
    found = []
    for _ in range(count):
        words = min(120, max(1, int(rng.lognormvariate(2.2, 0.9))))
        found.append(
            [
                {"role": "user", "content": f"What is {rng.randint(0, 9)} and {rng.randint(0, 9)}?"},
                {"role": "assistant", "content": " ".join(f"It is {rng.randint(0, 99)}." for _ in range(words))},
            ]
        )
    return found


if __name__ == "__main__":
    main()
