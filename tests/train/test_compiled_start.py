"""What a process has to do for its first compiled step when another has compiled the same before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import json, os
import torch
from torch._dynamo.utils import counters
from tessera_trainer.initialise import initialise
from tessera_trainer.micro_batch import pack
from tessera_trainer.model import Decoder
from tessera_trainer.parallel import Accelerator, Precision, join_world, prepare
from tessera_trainer.shape import ModelShape

world = join_world(Accelerator.CPU, local_rank=0, threads=1, limit_s=60)
shape = ModelShape(
    vocabulary=64, sequence_length=128, hidden=32, layers=2, heads=2, kv_heads=2, ffn=64, rope_theta=1e4, tied=True
)
model = prepare(Decoder(shape), world, Precision.FLOAT32, compiled=True, checkpointed=False)
initialise(model, 1)
for length in (200, 50, 40, 32):
    documents = torch.arange(129).div(length, rounding_mode="floor")[None]
    loss, _ = model(pack(torch.arange(129)[None] % 64, documents))
    loss.backward()
print(json.dumps({"loss": loss.item(), "graphs": counters["stats"]["unique_graphs"]} | counters["aot_autograd"]))
torch.distributed.destroy_process_group()
"""


def start(port: str, cache: Path) -> dict[str, float]:
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        env={**os.environ, **world, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_second_process_traces_the_blocks_once_and_finds_all_that_follows_from_it(tmp_path: Path) -> None:
    first, second = start("0", tmp_path), start("0", tmp_path)
    assert (first["graphs"], first["autograd_cache_saved"]) == (1, 1), "one for four ways to cut a row into documents"
    assert (second["graphs"], second["autograd_cache_hit"]) == (1, 1)
    assert second["loss"] == first["loss"]
