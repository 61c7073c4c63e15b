"""What only a GPU can tell: values and speed of the trainer's paths for CUDA, and what a snapshot of its memory costs.

python benchmarks/gpu.py [--quick] [--only NAME ...]: a JSON line a figure, on one NVIDIA GPU; each part runs in a
process of its own. Without a GPU it says so and measures nothing. Speed is of whole optimizer steps of the trainer's
own parts (exact mode, AdamW in float32, loss over all logits) at the shape of Llama 3.2 1B, on rows of 4,096 tokens of
one document each; model FLOPs are those of the matrix products, causal attention counted by its pairs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
import older_torch
from workload import Workload

from tessera_api.drill import Fault
from tessera_api.recipes import RECIPES, RecipeName
from tessera_keeper.part_file import PartRecord, Progress
from tessera_keeper.shelf import Buffer
from tessera_trainer.attention import attention
from tessera_trainer.exact import ExactGradients
from tessera_trainer.flops import training_flops
from tessera_trainer.initialise import initialise
from tessera_trainer.loss import summed_loss
from tessera_trainer.micro_batch import MicroBatch, pack
from tessera_trainer.model import Decoder
from tessera_trainer.norm import canonical_norm
from tessera_trainer.optimiser import AdamW, AdamWSettings
from tessera_trainer.page_locks import PageLocks
from tessera_trainer.parallel import Accelerator, Precision, World, join_world, prepare
from tessera_trainer.peak import Arithmetic, peak_of
from tessera_trainer.shape import ModelShape
from tessera_trainer.snapshot import Layout
from tessera_trainer.units import UnitPlan

VOCABULARY, LENGTH = 128_256, 4096
ROWS, UNITS = 4, 2
STEPS, QUICK_STEPS = 8, 3
TOKENS_GOAL, MFU_GOAL = 60_000, 0.5
RUN = Workload("llama-125m", 1_000_000, 1024, 8, 20, 1, 1, 1, hang_seconds=5, precision="bf16")
FAULTS = (Fault.WORKER_KILL, Fault.WORKER_STOP, Fault.WORKER_EXCEPTION, Fault.LOCK_HOG, Fault.COORDINATOR_KILL)
LARGEST_ERROR = 1e-2
"""Of bf16 against float32, relative: its own rounding is 4e-3."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=", ".join(PARTS))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not run: there is no CUDA device here", file=sys.stderr)
        return
    names = options.only or list(PARTS)
    if len(names) == 1:
        older_torch.serve()
        for said in PARTS[names[0]](options.quick):
            print(json.dumps({"spread": None, "goal": None, "holds": None, "quick": options.quick, **said}), flush=True)
        return
    failed = []
    for name in names:
        began = time.monotonic()
        words = [sys.executable, __file__, "--only", name, *(["--quick"] if options.quick else [])]
        failed += [name] if subprocess.run(words, check=False).returncode else []
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else None)


Said = Iterator[dict[str, Any]]


def values(quick: bool) -> Said:
    """Attention over documents of odd lengths, in bf16 and by hand in float32: outputs and gradients."""
    alone()
    device = torch.device("cuda", 0)
    offsets = torch.tensor([0, 1, 130, 131, 700, 1024, 1024], dtype=torch.int32, device=device)
    generator = torch.Generator(device).manual_seed(int(time.time()))
    sizes = ((1024, 32, 64), (1024, 8, 64), (1024, 8, 64), (1024, 32, 64))
    *heads, gradient = (torch.randn(size, generator=generator, device=device).bfloat16() for size in sizes)
    ours = [differentiated(heads, gradient, lambda q, k, v: attention(q, k, v, offsets, 1024)) for _ in range(2)]
    wide = differentiated([head.float() for head in heads], gradient.float(), lambda q, k, v: by_hand(q, k, v, offsets))
    errors = [float((one.float() - other).norm() / other.norm()) for one, other in zip(ours[0], wide, strict=True)]
    yield {
        "name": "GPU: attention in bf16 against float32 by hand, output and gradients",
        "value": round(max(errors), 5),
        "unit": "relative",
        "goal": f"<= {LARGEST_ERROR}",
        "holds": max(errors) <= LARGEST_ERROR,
    }
    same = sum(torch.equal(one, other) for one, other in zip(*ours, strict=True))
    yield {"name": "GPU: attention repeats its bits", "value": same, "unit": "of 4", "goal": "all", "holds": same == 4}


def differentiated(heads: list[Tensor], gradient: Tensor, mix: Callable[..., Tensor]) -> list[Tensor]:
    """Output, and the gradients of query, key and value."""
    leaves = [head.detach().clone().requires_grad_() for head in heads]
    output = mix(*leaves)
    torch.autograd.backward(output, gradient)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def by_hand(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """The same, with a mask over all pairs."""
    places = torch.arange(len(query), device=query.device)
    document = torch.bucketize(places, offsets[1:].long(), right=True)
    seen = (document[:, None] == document[None]) & (places[:, None] >= places[None])
    wide = [head.transpose(0, 1) for head in (query, key, value)]
    wide[1:] = [head.repeat_interleave(len(wide[0]) // len(head), 0) for head in wide[1:]]
    scores = (wide[0] @ wide[1].transpose(1, 2)) / query.shape[-1] ** 0.5
    return (functional.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ wide[2]).transpose(0, 1)


def speed(quick: bool) -> Said:
    """Tokens a second and MFU, as blocks are compiled and recomputed."""
    world = alone()
    peak = peak_of(world.device, Arithmetic.BF16)
    yield {"name": "GPU: peak that MFU is of", "value": peak.flops / 1e12, "unit": f"TFLOP/s ({peak.source})"}
    for compiled, checkpointed in ((True, False), (False, False), (True, True))[: 1 if quick else None]:
        name = f"{'compiled' if compiled else 'eager'}, {'blocks recomputed' if checkpointed else 'nothing recomputed'}"
        torch.cuda.reset_peak_memory_stats()
        try:
            seconds, batch = steps(world, compiled, checkpointed, QUICK_STEPS if quick else STEPS)
        except torch.OutOfMemoryError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rates = [UNITS * ROWS * LENGTH / one for one in seconds]
        flops = UNITS * training_flops(shape(), ROWS * LENGTH, batch.attention_pairs)
        shares = [flops / one / peak.flops for one in seconds]
        judged = compiled and not checkpointed
        yield figure(f"GPU: Llama 3.2 1B, {name}: speed", rates, "tokens/s", TOKENS_GOAL if judged else None)
        yield figure(f"GPU: Llama 3.2 1B, {name}: MFU", shares, "of peak", MFU_GOAL if judged else None)
        most = torch.cuda.max_memory_allocated() / 2**30
        yield {"name": f"GPU: Llama 3.2 1B, {name}: memory", "value": round(most, 2), "unit": "GiB"}
        torch.cuda.empty_cache()


def figure(name: str, found: list[float], unit: str, goal: float | None) -> dict[str, Any]:
    """The median of the tries, against the least that it must be."""
    middle = statistics.median(found)
    said = {"name": name, "value": round(middle, 4), "spread": [round(min(found), 4), round(max(found), 4)]}
    return {**said, "unit": unit, "goal": f">= {goal:g}" if goal else None, "holds": middle >= goal if goal else None}


def steps(world: World, compiled: bool, checkpointed: bool, count: int) -> tuple[list[float], MicroBatch]:
    """Seconds of whole steps, after three that warm up."""
    model, optimiser = trained(world, compiled, checkpointed)
    gradients: ExactGradients[MicroBatch] = ExactGradients(model, UnitPlan(UNITS, 1), world.group, world.device)
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    batch = pack(tokens, torch.zeros_like(tokens)).to(world.device)
    seconds = []
    for number in range(3 + count):
        began = time.perf_counter()
        done = gradients.run([batch] * UNITS, [batch.token_count] * UNITS, lambda one: model(one)[0])
        optimiser.step(1e-4)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        print(f"step {number}: loss {done.loss:.4f}, {seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    return seconds[3:], batch


def trained(world: World, compiled: bool, checkpointed: bool) -> tuple[Any, AdamW]:
    """The model, sharded, with weights, and its optimiser."""
    with torch.device("meta"):
        model = Decoder(shape())
    sharded = prepare(model, world, Precision.BFLOAT16, compiled=compiled, checkpointed=checkpointed)
    optimiser = AdamW(model, AdamWSettings(), world.group)
    initialise(model, 1)
    return sharded, optimiser


def shape() -> ModelShape:
    """Of the model that is measured."""
    return ModelShape.of(RECIPES[RecipeName.LLAMA_1B], VOCABULARY, LENGTH)


def snapshot(quick: bool) -> Said:
    """How long training stands still while weights and moments are copied to memory that other processes see."""
    world = alone()
    _, optimiser = trained(world, compiled=False, checkpointed=False)
    shards = list(optimiser.state())
    part = PartRecord(name="measured", rank=0, ranks=1, progress=Progress(step=1, position=1, updates=1), tensors=())
    layout = Layout(shards, part)
    for pinned in (False, True):
        seconds, again = copies(layout, shards, pinned)
        how = "page-locked" if pinned else "ordinary"
        rates = [layout.size / 1e9 / one for one in seconds[1:]]
        name = f"GPU: snapshot of {layout.size / 1e9:.1f} GB to {how} memory"
        yield figure(f"{name}: stall", seconds[1:], "s", None)
        yield figure(f"{name}: rate", rates, "GB/s", None)
        yield {"name": f"{name}: the first", "value": round(seconds[0], 3), "unit": "s"}
        yield {"name": f"{name}: the first of a new trainer", "value": round(again, 3), "unit": "s"}


def copies(layout: Layout, shards: list[Any], pinned: bool) -> tuple[list[float], float]:
    """Seconds of each copy, the first of which has to get the memory; and of one by a process that maps it anew."""
    first = Buffer.made(1, layout.size)
    seconds = [copied(layout, shards, first, pinned) for _ in range(5)]
    again = Buffer(2, layout.size, first.file, mmap.mmap(first.file, layout.size))
    return seconds, copied(layout, shards, again, pinned)


LOCKS = PageLocks()


def copied(layout: Layout, shards: list[Any], buffer: Buffer, pinned: bool) -> float:
    """Seconds, with the locking where that has not been done."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    if pinned:
        LOCKS.lock(buffer)
    layout.copy(shards, buffer.memory)
    return time.perf_counter() - began


def start(quick: bool) -> Said:
    """What a new trainer spends before its first step, on a model of 125 million parameters."""
    marks = [("", time.perf_counter())]

    def mark(what: str) -> None:
        torch.cuda.synchronize()
        marks.append((what, time.perf_counter()))

    torch.zeros(1, device="cuda")
    mark("context")
    world = alone()
    mark("process group")
    dist.all_reduce(torch.zeros(1, device=world.device))
    mark("first collective")
    peak_of(world.device, Arithmetic.BF16)
    form = ModelShape.of(RECIPES[RecipeName.LLAMA_125M], 512, 1024)
    with torch.device("meta"):
        model = Decoder(form)
    sharded = prepare(model, world, Precision.BFLOAT16, compiled=False, checkpointed=False)
    optimiser = AdamW(model, AdamWSettings(), world.group)
    mark("model and optimizer")
    initialise(model, 1)
    mark("initial weights")
    gradients: ExactGradients[MicroBatch] = ExactGradients(sharded, UnitPlan(8, 1), world.group, world.device)
    tokens = torch.randint(0, 512, (1, 1025), generator=torch.Generator().manual_seed(1))
    batch = pack(tokens, torch.zeros_like(tokens)).to(world.device)
    for number in (1, 2, 3):
        gradients.run([batch] * 8, [batch.token_count] * 8, lambda one: model(one)[0])
        mark(f"gradients of step {number}")
        optimiser.step(1e-4)
        mark(f"update of step {number}")
    for (_, before), (what, at) in itertools.pairwise(marks):
        yield {"name": f"GPU: start of a trainer: {what}", "value": round(at - before, 3), "unit": "s"}


def profile(quick: bool) -> Said:
    """Where a step's time goes, to standard error."""
    world = alone()
    model, optimiser = trained(world, compiled=True, checkpointed=False)
    gradients: ExactGradients[MicroBatch] = ExactGradients(model, UnitPlan(UNITS, 1), world.group, world.device)
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    batch = pack(tokens, torch.zeros_like(tokens)).to(world.device)

    def forward(one: MicroBatch) -> Tensor:
        loss: Tensor = model(one)[0]
        return loss

    def spent(what: str, work: Callable[[], object]) -> None:
        for turn in range(3):
            torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            torch.cuda.synchronize()
            print(f"{what}, {turn}: {time.perf_counter() - began:.4f} s", file=sys.stderr, flush=True)

    def run() -> object:
        return gradients.run([batch] * UNITS, [batch.token_count] * UNITS, forward)

    spent("whole step", lambda: (run(), optimiser.step(1e-4)))
    spent("gradients", run)
    spent("norm", lambda: canonical_norm(optimiser._gradients(), world.group) if run() else None)
    torch.use_deterministic_algorithms(False)
    spent("gradients, without an order for sums", run)
    torch.use_deterministic_algorithms(True)
    spent("loss alone", lambda: loss_alone(world.device))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        gradients.run([batch] * UNITS, [batch.token_count] * UNITS, lambda one: model(one)[0])
        optimiser.step(1e-4)
        torch.cuda.synchronize()
    print(
        seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=70),
        file=sys.stderr,
    )
    yield from ()


def loss_alone(device: torch.device) -> None:
    """Of one unit, with its gradients."""
    hidden = torch.randn(ROWS * LENGTH, 2048, device=device, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(VOCABULARY, 2048, device=device, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (ROWS * LENGTH,), device=device)
    for _ in range(UNITS):
        torch.autograd.backward(summed_loss(hidden, head, targets))


def alone() -> World:
    """A world of one rank, on the GPU."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
    if dist.is_initialized():
        raise RuntimeError("each part has a process of its own")
    return join_world(Accelerator.CUDA, local_rank=0, threads=1, limit_s=300.0)


def hurt(quick: bool) -> Said:
    """A run on the GPU whose trainer is killed, hangs, fails, or loses its coordinator; then one left alone."""
    from drills import disturbed, undisturbed

    faults = FAULTS[: 1 if quick else None]
    with tempfile.TemporaryDirectory() as folder:
        kept, seconds, hurt = disturbed(Path(folder), faults, 1 if quick else 2, RUN)
        for text in (Path(folder) / "work/runs/hurt/events.jsonl").read_text().splitlines():
            event = json.loads(text)
            if event["name"] in ("GenerationOver", "GenerationOpened", "Phase", "FirstStep"):
                print(f"{event['time']:.2f} {event['name']} {event['message'][:80]}", file=sys.stderr)
        alone = undisturbed(Path(folder), max(hurt), RUN)
    tries = len(faults) * (1 if quick else 2)
    yield {
        "name": "GPU: drills, promise kept",
        "value": kept,
        "unit": f"of {tries}",
        "goal": "all",
        "holds": kept == tries,
    }
    differ = sum(hurt[step] != alone.get(step) for step in hurt)
    name = "GPU: drills, steps that differ from the undisturbed run's"
    yield {"name": name, "value": differ, "unit": f"of {len(hurt)}", "goal": "0", "holds": differ == 0}
    for fault, found in seconds.items():
        yield figure(f"GPU: drill {fault}: from the fault to the next step", found, "s", None)


PARTS: dict[str, Callable[[bool], Said]] = {
    "values": values,
    "speed": speed,
    "snapshot": snapshot,
    "start": start,
    "hurt": hurt,
    "profile": profile,
}


if __name__ == "__main__":
    main()
