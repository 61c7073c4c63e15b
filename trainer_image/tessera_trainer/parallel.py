"""How a model is spread over devices: process group, mesh, activation checkpointing, compilation, FSDP2.

One code for CPU (gloo) and GPU (NCCL). The order matters: a checkpointed block is compiled as a whole, and FSDP2 wraps
what was compiled, so that its gathers stay outside the graphs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, assert_never

import torch
import torch.distributed as dist
from torch import nn
from torch._functorch import config as compiler_settings
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint


class Accelerator(Enum):
    """What a rank computes on."""

    CPU = "cpu"
    CUDA = "cuda"

    @property
    def backend(self) -> str:
        """The collectives' library."""
        match self:
            case Accelerator.CPU:
                return "gloo"
            case Accelerator.CUDA:
                return "nccl"
            case _:
                assert_never(self)


class Precision(Enum):
    """What blocks compute in. Weights, moments and gradient sums are float32 in each case."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    def policy(self) -> MixedPrecisionPolicy:
        """FSDP2's words for it."""
        narrow = torch.bfloat16 if self is Precision.BFLOAT16 else None
        return MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The ranks of one generation, as a rank sees them."""

    mesh: DeviceMesh
    device: torch.device

    @property
    def group(self) -> dist.ProcessGroup:
        """All ranks."""
        return self.mesh.get_group()

    @property
    def rank(self) -> int:
        """This rank, from 0."""
        return self.group.rank()

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.group.size()


def join_world(accelerator: Accelerator, *, local_rank: int, threads: int, limit_s: float) -> World:
    """Joins the ranks that torchrun started; a collective that takes longer than `limit_s` fails.

    `threads` is a setting and not the machine's idea: the number of threads changes the bits of some sums.
    """
    torch.set_num_threads(threads)
    device = torch.device(accelerator.value)
    if accelerator is Accelerator.CUDA:
        device = torch.device(accelerator.value, local_rank)
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits only so, says its manual
        torch.use_deterministic_algorithms(True)  # the embedding's gradient is summed by atomics otherwise
    limit = timedelta(seconds=limit_s)
    dist.init_process_group(accelerator.backend, timeout=limit)
    return World(mesh=init_device_mesh(accelerator.value, (dist.get_world_size(),)), device=device)


def prepare(model: nn.Module, world: World, precision: Precision, *, compiled: bool, checkpointed: bool) -> FSDPModule:
    """Shards `model` over the world, in place; `model.layers` are its blocks.

    Weights stay gathered between forward and backward pass, as `exact.ExactGradients` needs it (small-model mode).
    Compiled blocks have static shapes, since a unit has one length, and are whole graphs: torch raises where a block is
    none, instead of leaving it uncompiled. A model on the meta device gets memory for this rank's
    shards alone, and is to be filled (`initialise`, `restore`).
    """
    # Our gradients by hand are traced as a whole, and are part of the key: what is kept of a compilation is all of it.
    compiler_settings.autograd_cache_allow_custom_autograd_functions = True
    blocks = _blocks(model)
    empty = any(parameter.is_meta for parameter in model.parameters())
    if not empty:
        model.to(world.device)
    for block in blocks:
        if checkpointed:
            block.forward = _checkpointed(block.forward)
        if compiled:
            block.compile(dynamic=False, fullgraph=True)
    for module in (*blocks, model):
        fully_shard(module, mesh=world.mesh, mp_policy=precision.policy(), reshard_after_forward=False)
    if empty:
        model.to_empty(device=world.device)
    if not isinstance(model, FSDPModule):
        raise TypeError("fully_shard did not make an FSDPModule of the model")
    return model


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, computed again in the backward pass instead of kept. (A functools.partial would not be compiled.)"""

    def recomputed(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    return recomputed


def _blocks(model: nn.Module) -> list[nn.Module]:
    layers = model.get_submodule("layers")
    if not isinstance(layers, nn.ModuleList):
        raise TypeError(f"model.layers is a {type(layers).__name__}, not a list of blocks")
    return list(layers)
