"""AdamW on this rank's shards, by elementwise operations alone.

Never the fused kernel on a CPU: its result depends on where in a shard a number lies (vector body or tail), so it is
not the same at another world size (design.md §2.7). The moments are there from the start, so that a checkpoint's
layout follows from the model alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tessera_trainer.norm import canonical_norm
from tessera_trainer.shards import Shard, local_part, shard_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWSettings:
    """Constants of the optimiser (Loshchilov and Hutter, arXiv:1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Of matrices alone: vectors (norm weights, biases) are not decayed."""
    max_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it."""


@dataclass(frozen=True, slots=True)
class Update:
    """What became of a step's gradients; equal on every rank."""

    norm: float
    """Before clipping."""
    applied: bool
    """False where it was not wanted: then neither weights nor moments have changed."""


class AdamW:
    """The optimiser of one model's parameters. `updates` counts those that were applied."""

    def __init__(self, model: nn.Module, settings: AdamWSettings, group: dist.ProcessGroup) -> None:
        self._settings, self._group = settings, group
        self._parameters = dict(model.named_parameters())
        self._trained = {name: one for name, one in self._parameters.items() if one.requires_grad}
        local = {name: local_part(parameter.detach()) for name, parameter in self._parameters.items()}
        self._all = list(local.values())
        self._weights = [local[name] for name in self._trained]
        self._first = [torch.zeros_like(weight) for weight in self._weights]
        self._second = [torch.zeros_like(weight) for weight in self._weights]
        self._decayed = [local[name] for name, parameter in self._trained.items() if parameter.dim() >= 2]
        self.updates = 0

    def step(self, rate: float, wanted: Callable[[float], bool] = math.isfinite) -> Update:
        """Takes the gradients out of the parameters (`.grad`) and applies them at this learning rate, if their norm is
        `wanted`, in which all ranks must agree."""
        gradients = self._gradients()
        norm = canonical_norm(gradients, self._group)
        if not wanted(norm):
            return Update(norm, applied=False)
        locals_ = [gradient.local for gradient in gradients]
        if norm > self._settings.max_norm:
            torch._foreach_mul_(locals_, self._settings.max_norm / norm)
        self.updates += 1
        self._apply(locals_, rate)
        return Update(norm, applied=True)

    def weights(self) -> Iterator[Shard]:
        """The shards of the parameters, frozen ones too, in the model's order."""
        return _shards(self._parameters, self._all, "")

    def state(self) -> Iterator[Shard]:
        """All that a checkpoint holds: the weights, then both moments of those that are trained, under names of their
        own."""
        return chain(
            _shards(self._parameters, self._all, "weight/"),
            _shards(self._trained, self._first, "exp_avg/"),
            _shards(self._trained, self._second, "exp_avg_sq/"),
        )

    def _gradients(self) -> list[Shard]:
        gradients = []
        for name, parameter in self._trained.items():
            if parameter.grad is None:
                raise ValueError(f"parameter {name} got no gradient; each parameter must take part in each step")
            gradients.append(shard_of(name, parameter, local_part(parameter.grad)))
            parameter.grad = None
        return gradients

    @torch.no_grad()
    def _apply(self, gradients: list[Tensor], rate: float) -> None:
        settings = self._settings
        if self._decayed:
            torch._foreach_mul_(self._decayed, 1.0 - rate * settings.weight_decay)
        torch._foreach_lerp_(self._first, gradients, 1.0 - settings.beta1)
        torch._foreach_mul_(self._second, settings.beta2)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1.0 - settings.beta2)
        denominators = torch._foreach_sqrt(self._second)
        torch._foreach_div_(denominators, math.sqrt(1.0 - settings.beta2**self.updates))
        torch._foreach_add_(denominators, settings.epsilon)
        size = rate / (1.0 - settings.beta1**self.updates)
        torch._foreach_addcdiv_(self._weights, self._first, denominators, -size)


def _shards(parameters: Mapping[str, nn.Parameter], tensors: Sequence[Tensor], prefix: str) -> Iterator[Shard]:
    named = zip(parameters.items(), tensors, strict=True)
    return (shard_of(prefix + name, parameter, tensor) for (name, parameter), tensor in named)
