"""What a training came to, put together from what its ranks logged (tessera_trainer/evidence.py).

What must stay true: a step that was computed twice (in an old generation and in a newer one) counts once, and its two
losses and norms must be the same to the bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Contradiction(AssertionError):
    """The ranks' logs do not fit together."""


@dataclass(frozen=True)
class Outcome:
    """sha256 each; equal outcomes are equal trainings."""

    losses: str
    norms: str
    ids: str
    """Of what each unit of each step consumed."""
    state: str
    """Of weights and moments after the last step."""


def read_outcome(folder: Path, steps: int) -> Outcome:
    """The outcome of a training of so many steps. Raises Contradiction."""
    losses: dict[int, str] = {}
    norms: dict[int, str] = {}
    ids: dict[Any, Any] = {}
    state = ""
    for path in sorted(folder.glob("generation-*.jsonl")):  # older generations first
        generation = path.name.split("-rank-")[0]
        for line in _lines(path):
            if "state" in line:
                state = line["state"]
                continue
            step = line["step"]
            _same(losses, step, line["loss"], "loss")
            _same(norms, step, line["norm"], "norm")
            if ids.get(step, ("",))[0] != generation:
                ids[step] = (generation, {})
            ids[step][1].update(line["units"])
    if sorted(losses) != list(range(1, steps + 1)) or not state:
        raise Contradiction(f"{folder.name}: {len(losses)} of {steps} steps, final state {state or 'unknown'}")
    rows = (json.dumps([ids[step][1][unit] for unit in sorted(ids[step][1], key=int)]) for step in sorted(ids))
    return Outcome(
        _digest(losses[s] for s in sorted(losses)), _digest(norms[s] for s in sorted(norms)), _digest(rows), state
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines: a killed rank may have left half of one."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _same(known: dict[int, str], step: int, value: str, what: str) -> None:
    if known.setdefault(step, value) != value:
        raise Contradiction(f"{what} of step {step} was {known[step]} and then {value}")


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
