"""Builders: small sources for a dataset, and builds of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tessera_api.dataset_build import DatasetBuild
from tessera_data.build import Built, Sizes, build_dataset
from tessera_store.names import PARTS

SMALL = Sizes(chunk_bytes=2000, shard_bytes=3000)


def words(seed: int, count: int) -> str:
    random = np.random.default_rng(seed)
    return " ".join("".join(chr(97 + int(letter)) for letter in random.zipf(1.6, 5) % 26) for _ in range(count))


def write_sources(folder: Path) -> Path:
    """Forty JSONL documents (four are copies of earlier ones, three have no text) and ten text files, one a copy."""
    (folder / "files").mkdir(parents=True)
    texts = [words(seed, 60) for seed in range(36)]
    rows = [json.dumps({"body": text}) for text in [*texts, *texts[3:7]]]
    odd = ['{"body": ""}', "{broken", '{"id": 1}']
    (folder / "rows.jsonl").write_text("\n".join([*rows[:20], *odd, *rows[20:]]) + "\n")
    for number in range(10):
        (folder / "files" / f"{number}.txt").write_text(texts[5] if number == 4 else words(100 + number, 80))
    return folder


def manifest_of(folder: Path, **spec: Any) -> dict[str, Any]:
    provenance = {"owner": "us", "collected": "2026-11-01", "method": "made up", "synthetic": True}
    rows = {"name": "rows", "uri": (folder / "rows.jsonl").as_uri(), "format": "jsonl", "textField": "body"}
    files = {"name": "files", "uri": (folder / "files").as_uri(), "format": "text"}
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "DatasetBuild",
        "metadata": {"name": "small"},
        "spec": {
            "content": "text",
            "sources": [{**source, "licence": "MIT", "provenance": provenance} for source in (rows, files)],
            "tokenizer": {"train": {"vocabularySize": 400}},
            "heldOut": {"share": "0.2"},
            "output": {"uri": (folder / "out").as_uri()},
            **spec,
        },
    }


def build_in(folder: Path, work: str = "work", sizes: Sizes = SMALL, **spec: Any) -> Built:
    build = DatasetBuild.model_validate(manifest_of(folder, **spec))
    return build_dataset(build, folder / work, lambda *_: None, sizes)


def objects(output: Path) -> Mapping[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and PARTS not in path.parts
    }


PEAK = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
"""An expression for a program of its own: the most memory that it has had so far, KiB. (getrusage would count what the
process that started it had.)"""


def environment() -> dict[str, str]:
    """For a Python of its own that finds our packages."""
    paths = [path for path in sys.path if path.endswith(("crds", "trainer_image"))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
