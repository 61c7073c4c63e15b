"""What the benchmarks train: a small dataset of the standard library's sources, and the manifests of runs over it.

Owns the workload that the figures are stated for: 20 million parameters, 6 units of 256 tokens a step, on 3 nodes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera_api.resolved_run import ResolvedDataset

NAME = "sources"
BUILD_SECONDS = 600.0
INCLUDED = ["asyncio/*.py", "email/*.py", "json/*.py", "http/*.py", "logging/*.py", "unittest/*.py", "xml/**/*.py"]
PROVENANCE = {
    "owner": "Python Software Foundation",
    "collected": "2026-11-01",
    "method": "installed package",
    "synthetic": False,
}


def dataset(folder: Path, vocabulary: int = 8192) -> ResolvedDataset:
    """The dataset, built in `folder` if it does not stand there. Raises CalledProcessError with the build's words."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / f"build-{vocabulary}.json"
    spec.write_text(json.dumps(build(folder / str(vocabulary), vocabulary)))
    command = [sys.executable, "-m", "tessera_data", "build", str(spec), "--work", str(folder / f"work-{vocabulary}")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=BUILD_SECONDS)
    said = json.loads(done.stdout.splitlines()[-1])
    return ResolvedDataset(**{key: said[key] for key in ResolvedDataset.model_fields})


def build(output: Path, vocabulary: int) -> dict[str, Any]:
    """The manifest of the dataset, published below `output`."""
    source = {
        "name": "stdlib",
        "uri": Path(sysconfig.get_path("stdlib")).as_uri(),
        "include": INCLUDED,
        "format": "text",
        "licence": "PSF-2.0",
        "provenance": PROVENANCE,
    }
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "DatasetBuild",
        "metadata": {"name": NAME},
        "spec": {
            "content": "text",
            "sources": [source],
            "tokenizer": {"train": {"vocabularySize": vocabulary}},
            "heldOut": {"share": "0.05"},
            "output": {"uri": output.as_uri()},
        },
    }


@dataclass(frozen=True)
class Workload:
    """A training; the defaults are the figures' own."""

    recipe: str = "llama-20m"
    steps: int = 100_000
    sequence: int = 256
    units: int = 6
    every: int = 5
    """Steps from checkpoint to checkpoint."""
    count: int = 3
    least: int = 1
    most: int = 4
    hang_seconds: int = 60
    snapshot_every: int | None = None
    """Steps from snapshot to snapshot; None: as from checkpoint to checkpoint."""
    precision: str = "fp32"
    compile: str = "none"

    @classmethod
    def usual(cls, quick: bool) -> Workload:
        """The figures' own, or a small one for a quick look."""
        return cls("llama-1m") if quick else cls()

    def manifest(self, name: str, storage: str = "file:///unused") -> dict[str, Any]:
        """The TrainingRun."""
        return {
            "apiVersion": "tessera.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": name},
            "spec": {
                "method": "pretrain",
                "model": {"recipe": self.recipe},
                "data": {"sequenceLength": self.sequence, "mix": [{"dataset": NAME, "weight": "1"}]},
                "training": {
                    "tokens": str(self.steps * self.units * self.sequence),
                    "seed": 7,
                    "globalBatch": self.units,
                    "unit": 1,
                    "precision": self.precision,
                    "compile": self.compile,
                    "learningRate": "1e-3",
                    "schedule": {"kind": "cosine", "warmupSteps": 5},
                },
                "nodes": {"count": self.count, "min": self.least, "max": max(self.most, self.count)},
                "checkpoint": {"every": self.every, "keep": 3, "snapshotEvery": self._snapshot_every()},
                "hangSeconds": self.hang_seconds,
                "storage": {"uri": storage},
            },
        }

    def _snapshot_every(self) -> int:
        return self.every if self.snapshot_every is None else self.snapshot_every
