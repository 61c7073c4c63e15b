"""Lets the trainer run on torch 2.11, for measurements on a machine that has no newer one. Not for training.

The trainer is written for torch 2.15 (`fsdp_edges`). What differs is put in its place: FSDP2 of 2.11 has one group of
parameters a module and leaves gradients in the narrow type; its attention over documents takes no word about groups
of heads, and groups them by their numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention import varlen

from tessera_trainer import attention, fsdp_edges


def serve() -> None:
    """On another torch than 2.11, nothing is changed."""
    if not torch.__version__.startswith("2.11."):
        return
    narrow = varlen.varlen_attn

    def grouped(*parts: Any, enable_gqa: bool = False, **named: Any) -> Any:
        return narrow(*parts, **named)

    vars(attention)["varlen_attn"] = grouped
    vars(fsdp_edges)["take_over"] = take_over


def take_over(module: Any) -> tuple[nn.Parameter, ...]:
    """See `fsdp_edges.take_over`."""
    group = module._get_fsdp_state()._fsdp_param_group
    if group is None:
        return ()
    parameters = tuple(each._unsharded_param for each in group.fsdp_params)
    for parameter in parameters:
        parameter.grad_dtype = torch.float32
    return parameters
