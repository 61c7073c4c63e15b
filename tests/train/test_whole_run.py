"""The whole path by the command alone: documents, dataset, training, evaluation, export; on S3; a run from a run."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera_api.log import Commit
from tessera_api.run_directory import RunDirectory
from tessera_cli.run_log_entries import read_entries
from tessera_store import open_store
from tessera_trainer.pretrained import read_shape, read_weights
from tessera_trainer.restore import restore
from tessera_trainer.shards import Shard

pytestmark = pytest.mark.timeout(600)

DATA = """
apiVersion: tessera.dev/v1alpha1
kind: DatasetBuild
metadata: {name: words}
spec:
  content: text
  sources:
    - name: words
      uri: FOLDER
      include: ["*.jsonl"]
      format: jsonl
      licence: CC0-1.0
      provenance: {owner: nobody, collected: "2026-11-01", method: made up, synthetic: true}
  tokenizer: {train: {vocabularySize: 320}}
  heldOut: {share: "0.1"}
  output: {uri: s3://models/datasets}
"""
RUN = """
apiVersion: tessera.dev/v1alpha1
kind: TrainingRun
metadata: {name: NAME}
spec:
  method: pretrain
  model: MODEL
  data: {sequenceLength: 64, mix: [{dataset: words, weight: "1"}]}
  training:
    tokens: 6144
    seed: 7
    globalBatch: 8
    unit: 2
    learningRate: "3e-3"
    schedule: {kind: cosine, warmupSteps: 2}
  nodes: {count: 2, min: 1, max: 3}
  checkpoint: {every: 4, keep: 2}
  storage: {uri: s3://models/runs}
"""


def local(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tessera_cli", "local", *words, "--workdir", str(folder / "work")]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=folder, check=False)


def write_inputs(folder: Path) -> None:
    rng = random.Random(7)
    vocabulary = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(300)]
    documents = [{"text": " ".join(rng.choices(vocabulary, k=rng.randint(20, 120)))} for _ in range(400)]
    (folder / "words.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "data.yaml").write_text(DATA.replace("FOLDER", folder.as_uri()))
    (folder / "first.yaml").write_text(RUN.replace("NAME", "first").replace("MODEL", "{recipe: llama-1m}"))
    (folder / "second.yaml").write_text(RUN.replace("NAME", "second").replace("MODEL", "{from: {run: first}}"))


def write_more(folder: Path) -> None:
    """Other documents, with the first ones' tokenizer, and a run that continues on them."""
    rng = random.Random(8)
    vocabulary = ["".join(rng.choices("stuvwxyz", k=rng.randint(2, 7))) for _ in range(30)]
    documents = [{"text": " ".join(rng.choices(vocabulary, k=rng.randint(20, 120)))} for _ in range(200)]
    (folder / "more").mkdir()
    (folder / "more" / "more.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tokenizer, *_) = (folder / "work").rglob("tokenizer.json")
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    data = DATA.replace("FOLDER", (folder / "more").as_uri()).replace("name: words", "name: more")
    taken = f"{{uri: {tokenizer.as_uri()}, sha256: {digest}}}"
    (folder / "more.yaml").write_text(data.replace("{train: {vocabularySize: 320}}", taken))
    mix = '{dataset: words, weight: "1"}, {dataset: more, weight: "3"}'
    run = RUN.replace("NAME", "third").replace("MODEL", "{from: {run: first}}").replace("pretrain", "continue")
    (folder / "third.yaml").write_text(run.replace('{dataset: words, weight: "1"}', mix))


def held_out(directory: RunDirectory) -> dict[tuple[str, int], float]:
    """Bits per byte, by whose documents and at which step."""
    events = [json.loads(line) for line in directory.events.read_text().splitlines()]
    noted = [event for event in events if event["message"].startswith("HeldOut: ")]
    whose = re.compile(r"on held-out documents( of \w+)? at step (\d+)$")
    read = [(whose.search(event["message"]), event["numbers"]["bits_per_byte"]) for event in noted]
    return {(match[1] or "", int(match[2])): bits for match, bits in read if match}


def losses(directory: RunDirectory) -> list[float]:
    return [json.loads(line)["loss"] for line in directory.metrics.read_text().splitlines()]


def notes(directory: RunDirectory) -> str:
    events: list[dict[str, Any]] = [json.loads(line) for line in directory.events.read_text().splitlines()]
    return " ".join(event["message"] for event in events if event["name"] == "Note")


def committed_weights(storage: str, export: Path) -> dict[str, Tensor]:
    """The weights of the newest commit, as a single reader gathers them from the parts of all ranks."""
    *_, commit = (entry for entry in read_entries(storage) if isinstance(entry, Commit))
    assert len(commit.objects) == 2
    weights = {name: torch.empty_like(weight) for name, weight in read_weights(export, read_shape(export))}
    targets = [
        Shard(f"weight/{name}", tuple(weight.shape), weight, range(len(weight))) for name, weight in weights.items()
    ]
    assert restore(commit.objects, open_store(storage), targets).step == commit.step == 12
    return weights


def test_documents_become_an_exported_model_on_s3_and_a_second_run_goes_on_from_it(tmp_path: Path, s3_uri: str) -> None:
    write_inputs(tmp_path)
    first = local(tmp_path, "data.yaml", "first.yaml", "--set", f"first:spec.storage.uri={s3_uri}")
    assert first.returncode == 0, first.stdout + first.stderr

    begun = RunDirectory(tmp_path / "work" / "runs" / "first")
    stored = [info.name for info in open_store(f"{s3_uri}/first").list("")]
    assert any(name.startswith("log/") for name in stored)
    assert any(name.startswith("checkpoints/00000012-") for name in stored)
    assert any(name.startswith("journal/") for name in stored)
    assert "bits per byte" in notes(begun)
    assert "Peak: " in notes(begun)
    assert "fp32 products" in notes(begun)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in begun.export.iterdir()}
    assert "<svg" in begun.report.read_text()
    committed = committed_weights(f"{s3_uri}/first", begun.export)
    exported = dict(read_weights(begun.export, read_shape(begun.export)))
    assert all(torch.equal(exported[name], weight) for name, weight in committed.items())

    again = local(tmp_path, "data.yaml", "first.yaml", "--set", f"first:spec.storage.uri={s3_uri}")
    assert again.returncode == 0
    assert len(losses(begun)) == 12

    second = local(tmp_path, "data.yaml", "second.yaml")
    assert second.returncode == 0, second.stdout + second.stderr
    chained = losses(RunDirectory(tmp_path / "work" / "runs" / "second"))
    assert chained[0] < losses(begun)[0] - 0.3

    write_more(tmp_path)
    third = local(tmp_path, "data.yaml", "more.yaml", "third.yaml")
    assert third.returncode == 0, third.stdout + third.stderr
    found = held_out(RunDirectory(tmp_path / "work" / "runs" / "third"))
    assert found.keys() == {(whose, step) for whose in (" of words", " of more", "") for step in (0, 12)}
    assert found[" of more", 12] < found[" of more", 0] - 0.3, "what it continues on is learned"
    assert abs(found[" of words", 12] - found[" of words", 0]) < 0.3, "and what has a share is not forgotten"
    assert found[" of words", 12] < found["", 12] < found[" of more", 12]
