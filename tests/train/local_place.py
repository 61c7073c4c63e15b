"""Builders for the tests of `tessera local`: manifests, resolved runs, stand-in programs, waiting for a condition."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tessera_api.log import Claim, Commit, End, Entry, StoredObject, object_name
from tessera_api.manifest import parse_manifests
from tessera_api.recipes import RECIPES, RecipeName
from tessera_api.resolved_run import Device, ResolvedDataset, ResolvedRun
from tessera_api.run_directory import LOG_PREFIX, RunDirectory
from tessera_api.training_run import TrainingRun
from tessera_cli.laptop import Machine
from tessera_cli.loopback import free_port
from tessera_cli.programs import Programs
from tessera_cli.starting import run_key
from tessera_store import open_store

PROGRAMS = Path(__file__).parent / "programs"
STAND_INS = Programs(
    coordinator=(sys.executable, str(PROGRAMS / "stand_in_coordinator.py")),
    agent=(sys.executable, str(PROGRAMS / "stand_in_agent.py")),
    build=(sys.executable, str(PROGRAMS / "stand_in_build.py")),
)

RUN = """
apiVersion: tessera.dev/v1alpha1
kind: TrainingRun
metadata: {name: tiny}
spec:
  method: pretrain
  model: {recipe: llama-1m}
  data: {sequenceLength: 32, mix: [{dataset: words, weight: "1"}]}
  training: {tokens: 3840, seed: 7, globalBatch: 6, unit: 1, learningRate: "1e-3", schedule: {kind: linear}}
  nodes: {count: 2, min: 1, max: 3, spares: 1}
  storage: {uri: s3://models/runs}
"""

BUILD = """
apiVersion: tessera.dev/v1alpha1
kind: DatasetBuild
metadata: {name: words}
spec:
  content: text
  sources:
    - name: words
      uri: file:///nowhere
      format: text
      licence: CC0-1.0
      provenance: {owner: nobody, collected: "2026-11-01", method: made up, synthetic: true}
  tokenizer: {train: {vocabularySize: 300}}
  output: {uri: s3://models/datasets}
"""


LAPTOP = Machine(processors=8, cuda_devices=0)
WORDS = ResolvedDataset(
    manifest="file:///datasets/words/manifest.json",
    sha256="a" * 64,
    fingerprint="b" * 64,
    tokenizer_sha256="d" * 64,
    vocabulary=300,
    tokens=5000,
)
CLAIM = Claim(term=1, holder="test", time=1.0)
WEIGHTS = StoredObject(name="checkpoints/20-1.1-n/rank-0", size=1, sha256="c" * 64)
COMMIT = Commit(term=1, generation=1, step=20, position=120, objects=(WEIGHTS,), time=1.5)
COMPLETE = End(term=1, reason="complete", message="all 20 steps are done", time=2.0)


def log_of(root: Path, *entries: Entry) -> None:
    """A log with these entries in the storage at `root`."""
    store = open_store(root.as_uri())
    for number, entry in enumerate(entries, 1):
        store.create(f"{LOG_PREFIX}{object_name(number)}", entry.canonical())


def training_run(*sets: str) -> TrainingRun:
    """The run of `RUN` with overrides."""
    [resource] = parse_manifests(RUN, sets=sets)
    assert isinstance(resource, TrainingRun)
    return resource


def resolved_run(root: Path, *sets: str) -> ResolvedRun:
    """A first start of it, with its directory's storage."""
    run = training_run(f"storage.uri={root.parent.as_uri()}", *sets)
    return ResolvedRun(
        start=1,
        started=1.0,
        created=1.0,
        asked=run,
        run=run,
        recipe=RECIPES[RecipeName.LLAMA_1M],
        datasets={},
        storage=root.as_uri(),
        device=Device.CPU,
        threads=1,
        coordinator=f"127.0.0.1:{free_port()}",
    )


def run_directory(root: Path, resolved: ResolvedRun) -> tuple[RunDirectory, bytes]:
    """A run's directory as a start leaves it, and its key."""
    directory = RunDirectory(root)
    root.mkdir(parents=True)
    directory.run_json.write_bytes(resolved.encode())
    return directory, run_key(directory.key)


def environment() -> dict[str, str]:
    """For programs that a test starts by itself."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}


def tessera_local(folder: Path, *documents: Mapping[str, Any], limit: float = 400.0) -> tuple[int, str]:
    """`tessera local` on these manifests, its work folder being `folder`/work: its exit code, and all that it said."""
    manifest = folder / "all.yaml"
    manifest.write_text("\n---\n".join(map(json.dumps, documents)))
    command = [sys.executable, "-m", "tessera_cli", "local", str(manifest), "--workdir", str(folder / "work")]
    done = subprocess.run(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )
    return done.returncode, done.stdout


def node(directory: RunDirectory, name: str) -> Mapping[str, Any] | None:
    """What a stand-in node has written of itself: {"agent", "workers"}."""
    path = directory.root / "nodes" / name
    if not path.exists():
        return None
    document: Mapping[str, Any] = json.loads(path.read_text())
    return document


def told(directory: RunDirectory, kind: str) -> list[dict[str, Any]]:
    """The orders of a kind that the stand-in coordinator was given."""
    path = directory.root / "told.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [order for line in lines if (order := json.loads(line))["kind"] == kind]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], object], limit: float, what: str) -> None:
    """Until the condition holds; fails the test after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.01)
