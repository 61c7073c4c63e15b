"""Manifests at the edge of what the contract takes: for each rule and bound one that is refused and one that is not.

A case starts from a sound manifest and changes fields by path; `GONE` takes one out. `words` is what the local loader
says, word for word, and what the API server's message must contain.
"""

import copy
import json
from dataclasses import dataclass
from typing import Any

GONE = object()

Edits = dict[str, Any]

TRAINING_RUN: dict[str, Any] = {
    "apiVersion": "tessera.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "tiny"},
    "spec": {
        "method": "pretrain",
        "model": {"recipe": "llama-1m"},
        "data": {"sequenceLength": 64, "mix": [{"dataset": "stdlib", "weight": "1"}]},
        "training": {
            "tokens": "64k",
            "seed": 7,
            "globalBatch": 8,
            "unit": 2,
            "learningRate": "6e-4",
            "schedule": {"kind": "wsd", "warmupSteps": 10},
        },
        "nodes": {"count": 2, "min": 1, "max": 4},
        "storage": {"uri": "s3://models/runs"},
    },
}
DATASET_BUILD: dict[str, Any] = {
    "apiVersion": "tessera.dev/v1alpha1",
    "kind": "DatasetBuild",
    "metadata": {"name": "stdlib"},
    "spec": {
        "content": "text",
        "sources": [
            {
                "name": "stdlib",
                "uri": "file:///usr/lib/python3",
                "format": "text",
                "licence": "PSF-2.0",
                "provenance": {
                    "owner": "Python Software Foundation",
                    "collected": "2026-11-01",
                    "method": "installed package",
                    "synthetic": False,
                },
            }
        ],
        "tokenizer": {"train": {"vocabularySize": 8192}},
        "output": {"uri": "s3://models/datasets"},
    },
}
PLURALS = {"TrainingRun": "trainingruns", "DatasetBuild": "datasetbuilds"}


def edited(manifest: dict[str, Any], edits: Edits) -> dict[str, Any]:
    """A copy of a manifest with fields changed by path, such as `nodes.count` or `mix.0.weight`."""
    result = copy.deepcopy(manifest)
    for path, value in edits.items():
        names = [int(name) if name.isdigit() else name for name in path.split(".")]
        holder: Any = result
        for name in names[:-1]:
            holder = holder[name]
        if value is GONE:
            del holder[names[-1]]
        else:
            holder[names[-1]] = copy.deepcopy(value)
    return result


@dataclass(frozen=True)
class Case:
    """Edits that make a sound manifest wrong in one place, and edits just beside them that keep it sound."""

    manifest: dict[str, Any]
    refused: Edits
    path: str
    words: str
    accepted: Edits

    @property
    def id(self) -> str:
        """The case in the report of the tests."""
        shown = {key: "gone" if value is GONE else value for key, value in self.refused.items()}
        text = json.dumps(shown).replace("spec.", "")
        return f"{self.path}: {text if len(text) < 80 else text[:80]}"

    @property
    def wrong(self) -> dict[str, Any]:
        """The manifest that must be refused."""
        return edited(self.manifest, self.refused)

    @property
    def sound(self) -> dict[str, Any]:
        """The manifest that must be accepted."""
        return edited(self.manifest, self.accepted)


NAME_WORDS = "it must be at most 40 lower-case letters, digits and '-', a letter first and no '-' last"
URI_WORDS = r"should match '^(s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[^?#\x00-\x1f]*)?|file:///[^?#\x00-\x1f]*)$'"
