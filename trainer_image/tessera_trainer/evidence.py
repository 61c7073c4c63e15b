"""Evidence for exact mode: what each rank consumed and what came of it, as it logged it. Off unless a folder is named.

TESSERA_EVIDENCE names a folder; each rank appends to a file of its own there: step, exact loss and norm, and the
samples of each unit. The tests put the ranks' lines together and compare runs that were disturbed with runs that were
not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

VARIABLE = "TESSERA_EVIDENCE"


class Evidence:
    """One rank's file, or none."""

    def __init__(self, folder: str | None, generation: int, rank: int) -> None:
        self._descriptor: int | None = None
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            path = Path(folder) / f"generation-{generation:04d}-rank-{rank:04d}.jsonl"
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.wanted = self._descriptor is not None

    def step(self, step: int, loss: float, norm: float, ids: list[list[tuple[int, int, int]]], units: range) -> None:
        """One completed step."""
        if self._descriptor is None:
            return
        consumed = {str(unit): rows for unit, rows in zip(units, ids, strict=True)}
        self._write({"step": step, "loss": loss.hex(), "norm": norm.hex(), "units": consumed})

    def state(self, step: int, digest: str) -> None:
        """The digest of weights and moments after `step`."""
        self._write({"step": step, "state": digest})

    def _write(self, document: dict[str, object]) -> None:
        if self._descriptor is not None:
            os.write(self._descriptor, json.dumps(document).encode() + b"\n")
