"""A training program that trains nothing: real collectives, real checkpoints, steps as short as you like.

It meets Tessera through `tessera_run` alone. Its "weight" after step s is the sum of 1..s, so that any wrong resume
shows. Environment: TINY_STEPS, TINY_STEP_SECONDS, TINY_EVERY (steps per checkpoint), TINY_FAIL_AT (raise there),
TINY_FAIL_ON (on that node alone),
TINY_PRIVATE (folder for evidence), TINY_HOG (a file: the last rank of the generation in which it appears takes it
away, and computes for ever with the interpreter's lock held).
"""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import tessera_run

STEPS = int(os.environ.get("TINY_STEPS", "100"))
STEP_SECONDS = float(os.environ.get("TINY_STEP_SECONDS", "0.05"))
EVERY = int(os.environ.get("TINY_EVERY", "10"))
FAIL_AT = int(os.environ.get("TINY_FAIL_AT", "-1"))
FAIL_ON = os.environ.get("TINY_FAIL_ON", "")
HOG = Path(os.environ["TINY_HOG"]) if "TINY_HOG" in os.environ else None
ROOT = Path(os.environ["TESSERA_RUN_DIRECTORY"])


def main() -> None:
    with tessera_run.connect() as run:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, False, timedelta(seconds=30)
        )
        prefixed = dist.PrefixStore(f"generation-{run.generation}", store)
        dist.init_process_group("gloo", store=prefixed, rank=run.rank, world_size=run.world_size)
        start = run.resume()
        step, weight = (start.step, read_weight(start)) if start else (0, 0.0)
        assert weight == step * (step + 1) / 2, (step, weight)
        run.phase("train")
        while step < STEPS:
            step, weight = train_step(run, step, weight)
            stop = torch.tensor([1.0 if run.should_stop() else 0.0])
            dist.all_reduce(stop, dist.ReduceOp.MAX)
            if stop.item() or step % EVERY == 0 or step == STEPS:
                save(run, step, weight)
            if stop.item():
                run.wait_committed(step, 30)
                run.park(step)
        run.wait_committed(STEPS, 30)
        dist.barrier()


def train_step(run: tessera_run.Run, step: int, weight: float) -> tuple[int, float]:
    step += 1
    if step == FAIL_AT and FAIL_ON in ("", os.environ["TESSERA_NODE"]):
        raise ValueError(f"step {step} cannot be done")
    if HOG is not None and run.rank == run.world_size - 1 and HOG.exists():
        HOG.unlink()
        hog()
    value = torch.tensor([float(step)])
    began = time.perf_counter()
    dist.all_reduce(value)
    time.sleep(STEP_SECONDS)
    weight += value.item() / run.world_size
    run.step(step, step * 100, 10.0 / step, seconds=time.perf_counter() - began, weight=weight)
    return step, weight


def hog() -> None:
    """One operation of C that never lets go of the lock."""
    pow(7, 10**9)


def save(run: tessera_run.Run, step: int, weight: float) -> None:
    name = f"checkpoints/{step:08d}-{run.term}.{run.generation}-{run.nonce}/rank-{run.rank:05d}-of-{run.world_size:05d}"
    data = struct.pack("<d", weight)
    path = ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    run.commit(step, step * 100, [tessera_run.Part(name, len(data), hashlib.sha256(data).hexdigest())])


def read_weight(start: tessera_run.Resume) -> float:
    (weight,) = struct.unpack("<d", (ROOT / start.objects[0].name).read_bytes())
    return float(weight)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main()
