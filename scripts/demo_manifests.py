"""The demo's two manifests: the Python standard library's own sources as a dataset, and a small model trained on it.

Pure but for the look at which packages this Python has. The sizes were measured for two cores (`FULL`); `QUICK` shows
the same story in about a minute and promises nothing about the model.
"""

from __future__ import annotations

import json
import sysconfig
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RUN_NAME = "demo"
DATASET_NAME = "python-stdlib"
HELD_OUT_SHARE = "0.02"

PACKAGES = (
    "asyncio", "collections", "concurrent", "ctypes", "curses", "dbm", "email", "encodings", "html", "http",
    "importlib", "json", "logging", "multiprocessing", "pathlib", "pydoc_data", "re", "sqlite3", "tkinter", "tomllib",
    "unittest", "urllib", "venv", "wsgiref", "xml", "xmlrpc", "zoneinfo",
)  # fmt: skip
"""Those of the standard library, whichever of them a version has; without what is a program or a test of its own."""


@dataclass(frozen=True)
class Sizes:
    """What is trained, and on how much."""

    include: tuple[str, ...]
    """Patterns of files below the standard library's folder."""
    vocabulary: int
    recipe: str
    sequence_length: int
    global_batch: int
    unit: int
    learning_rate: str
    warmup_steps: int
    steps: int
    checkpoint_every: int
    goal: float | None
    """Greatest bits per byte on held-out text; None where nothing is promised."""

    @property
    def tokens(self) -> int:
        """That the run trains on."""
        return self.steps * self.global_batch * self.sequence_length


def library() -> Path:
    """The folder of this Python's standard library, which other Pythons' virtual environments share."""
    return Path(sysconfig.get_path("stdlib"))


def whole_library() -> tuple[str, ...]:
    """The modules and the packages that are here."""
    return ("*.py", *(f"{name}/**/*.py" for name in PACKAGES if (library() / name / "__init__.py").exists()))


def full() -> Sizes:
    """Some five minutes of training on two cores."""
    return Sizes(
        include=whole_library(),
        vocabulary=4096,
        recipe="llama-5m",
        sequence_length=256,
        global_batch=24,
        unit=4,
        learning_rate="4e-3",
        warmup_steps=10,
        steps=260,
        checkpoint_every=20,
        goal=1.75,
    )


def quick() -> Sizes:
    """Half a minute of training."""
    return Sizes(
        include=("*.py",),
        vocabulary=512,
        recipe="llama-1m",
        sequence_length=128,
        global_batch=6,
        unit=1,
        learning_rate="4e-3",
        warmup_steps=10,
        steps=300,
        checkpoint_every=20,
        goal=None,
    )


def dataset_manifest(sizes: Sizes) -> str:
    """YAML of the DatasetBuild."""
    return f"""\
apiVersion: tessera.dev/v1alpha1
kind: DatasetBuild
metadata:
  name: {DATASET_NAME}
spec:
  content: text
  sources:
    - name: stdlib
      uri: {library().resolve().as_uri()}
      include: {json.dumps(sizes.include)}
      format: text
      licence: PSF-2.0
      provenance:
        owner: Python Software Foundation
        collected: "{datetime.now(UTC).date().isoformat()}"
        method: installed package
        synthetic: false
  tokenizer:
    train:
      vocabularySize: {sizes.vocabulary}
  heldOut:
    share: "{HELD_OUT_SHARE}"
  output:
    uri: s3://models/datasets
"""


def run_manifest(sizes: Sizes) -> str:
    """YAML of the TrainingRun."""
    return f"""\
apiVersion: tessera.dev/v1alpha1
kind: TrainingRun
metadata:
  name: {RUN_NAME}
spec:
  method: pretrain
  model:
    recipe: {sizes.recipe}
  data:
    sequenceLength: {sizes.sequence_length}
    mix:
      - dataset: {DATASET_NAME}
        weight: "1"
  training:
    tokens: {sizes.tokens}
    seed: 7
    globalBatch: {sizes.global_batch}
    unit: {sizes.unit}
    learningRate: "{sizes.learning_rate}"
    schedule:
      kind: wsd
      warmupSteps: {sizes.warmup_steps}
      decayShare: "0.25"
      minimumShare: "0.02"
    determinism: exact
  nodes:
    count: 3
    min: 2
    max: 3
    spares: 1
    processesPerNode: 1
  checkpoint:
    every: {sizes.checkpoint_every}
    keep: 3
  storage:
    uri: s3://models/runs
"""
