"""The only place that touches torch where torch has made no promise: the inside of FSDP2 (written for torch 2.15).

`require` proves at start-up that what is used is there, so that another torch fails by name and version, and not with
other gradients. Everything else in this package uses documented calls.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter

WRITTEN_FOR = "2.15"
_SETTERS = (
    "set_custom_all_gather",
    "set_custom_reduce_scatter",
    "set_force_sum_reduction_for_comms",
    "set_gradient_divide_factor",
)
_ALL_GATHER = ("self", "output_tensor", "input_tensor", "group", "async_op")
_REDUCE_SCATTER = ("self", "output_tensor", "input_tensor", "group", "op", "async_op")


class TorchEdgeMissing(RuntimeError):
    """This torch lacks, or has changed, something inside FSDP2 that exact mode stands on."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"exact mode cannot run on torch {torch.__version__}: {what}; it was written for torch {WRITTEN_FOR}, "
            f"install that or set training.determinism to another value"
        )


def require() -> None:
    """Raises TorchEdgeMissing unless the parts of torch that exact mode needs are there and mean what they meant."""
    if tuple(inspect.signature(ReduceScatter.__call__).parameters) != _REDUCE_SCATTER:
        raise TorchEdgeMissing("the custom reduce-scatter of FSDP2 takes other arguments")
    for setter in _SETTERS:
        if not hasattr(FSDPModule, setter):
            raise TorchEdgeMissing(f"FSDPModule has no {setter}")
    if tuple(inspect.signature(AllGather.__call__).parameters) != _ALL_GATHER:
        raise TorchEdgeMissing("the custom gathering of FSDP2 takes other arguments")
    packed = torch.empty(2, 4)
    try:
        pack([torch.arange(6.0).view(3, 2)], packed.view(-1), 2)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise TorchEdgeMissing("it packs gradient shards in another way") from error
    if packed.tolist() != [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 0.0, 0.0]]:
        raise TorchEdgeMissing("it pads gradient shards in another way")


def pack(gradients: Sequence[Tensor], out: Tensor, ranks: int) -> None:
    """Writes the shards of full-size gradients to `out` [ranks * n] as FSDP2 does: by rank, cut and padded on dim 0."""
    torch._chunk_cat(list(gradients), dim=0, num_chunks=ranks, out=out.view(ranks, -1))


class GroupReduction(ReduceScatter):
    """Replaces the reduce-scatter of one FSDP2 module. Not called at world size 1: there FSDP2 copies."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Called on FSDP2's reduction stream, after the packed gradients are in `input_tensor` [ranks * n]."""
        self.reduce(output_tensor, input_tensor, group)

    @abstractmethod
    def reduce(self, output: Tensor, packed: Tensor, group: dist.ProcessGroup) -> None:
        """Writes this rank's shard [n] of the sum over ranks to `output`."""


class TimedGather(AllGather):
    """FSDP2's gathering of weights, with `around` each: a block in which the rank waits for others."""

    def __init__(self, around: Callable[[], AbstractContextManager[None]]) -> None:
        self._around = around

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """One that is not waited for here is not timed: FSDP2 asks for such only where it was told to."""
        with self._around():
            return dist.all_gather_into_tensor(output_tensor, input_tensor, group=group, async_op=async_op)


def replace_gather(model: FSDPModule, gather: TimedGather) -> None:
    """Gives each FSDP2 module inside `model` this gathering."""
    for module in fsdp_modules(model):
        module.set_custom_all_gather(gather)


def replace_reduction(model: FSDPModule, make: Callable[[FSDPModule], GroupReduction]) -> None:
    """Gives each FSDP2 module inside `model` a reduction of its own, and has gradients summed, not averaged."""
    for module in fsdp_modules(model):
        module.set_custom_reduce_scatter(make(module))
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def fsdp_modules(model: FSDPModule) -> Iterator[FSDPModule]:
    """The FSDP2 modules of a model, outermost first."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} is no module")
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def take_over(module: FSDPModule) -> tuple[nn.Parameter, ...]:
    """The full-size parameters of one FSDP2 module that are trained, in the order in which it packs their gradients;
    they stay the same objects.

    Call after the module's first forward pass and before its first backward pass. From then on their gradients are
    float32 in each backward pass: left alone, FSDP2 lets those of the pass that reduces stay in the narrow type, where
    the two parts of a tied weight's gradient would be summed with other bits than in the passes before.
    """
    try:
        parameters = []
        for group in module._get_fsdp_state()._fsdp_param_groups:
            group._fsdp_params_with_wider_grad_dtype.clear()
            parameters += [group.fsdp_params[index]._unsharded_param for index in group._reduce_scatter_param_indices]
        return tuple(parameter for parameter in parameters if parameter.requires_grad)
    except AttributeError as error:
        raise TorchEdgeMissing(f"FSDP2 keeps its full-size parameters elsewhere ({error})") from error
