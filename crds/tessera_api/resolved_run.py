"""The resolved run: `run.json`, what was asked and what it came to at one start (design.md §2.8).

Owns the form of the one document from which coordinator, agents and trainers take everything they need to know. There
is one per start (a run's creation, or a resumption): `run.json` is the newest, `run-1.json`, `run-2.json`, ... are
the ones before. What must stay true: no program of a run reads a manifest, and what decides the bits of the training
(`run.spec` but for its mutable fields, `datasets`, `threads`) is the same in every start.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from tessera_api.log import MAX_OBJECTS, StoredObject
from tessera_api.recipes import Recipe
from tessera_api.record import Count, Record, Sha256, Text
from tessera_api.training_run import TrainingRun


class Device(StrEnum):
    """What the trainers compute on."""

    CPU = "cpu"
    CUDA = "cuda"


class ResolvedDataset(Record):
    """A published dataset, pinned by its content."""

    manifest: Annotated[str, Field(max_length=2000)]
    """URI of the dataset's manifest."""
    sha256: Sha256
    """Of the manifest's bytes."""
    fingerprint: Annotated[str, Field(max_length=128)]
    """Of everything that decided the dataset's bytes."""
    tokenizer_sha256: Sha256
    """Of the tokenizer.json that its tokens were made with."""
    vocabulary: Count
    """Tokens that the tokenizer knows."""
    tokens: Count
    """For training, held-out documents not counted."""
    learned: Count | None = None
    """Of conversations: those that are learned."""


class ResolvedOrigin(Record):
    """Whose weights this run starts with: a finished run's, or those in a folder that others have made."""

    run: Annotated[str, Field(max_length=63)] | None = None
    """None: it is no run's."""
    storage: Annotated[str, Field(max_length=2000)]
    """URI of its folder: below it lie the run's log, journal and checkpoints, or the model's files."""


MAX_BESIDE_BYTES = 4_000_000
Beside = dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=MAX_BESIDE_BYTES)]]
"""Files by name: what a model of others has beside weights and configuration, and an export has again."""


class FirstWeights(Record):
    """`origin.json` of a run's folder: what its first weights are read from. No rank reads the other run's log."""

    storage: Annotated[str, Field(max_length=2000)]
    """URI of the other run's folder."""
    step: Count
    """Of its last commit."""
    objects: Annotated[tuple[StoredObject, ...], Field(min_length=1, max_length=MAX_OBJECTS)]
    """What that commit names."""
    configuration: Annotated[str, Field(max_length=1_000_000)] | None = None
    """The config.json of the model of others that the other run, or one before it, began with,"""
    beside: Beside = {}
    """and what that has beside it."""


class ForeignFile(Record):
    """A file of tensors, as it was when it was pinned."""

    name: Annotated[str, Field(max_length=900)]
    size: Count
    header_sha256: Sha256
    """Of its header, which says what lies where."""


class ForeignWeights(Record):
    """`origin.json` of a run that starts with a model of others."""

    storage: Annotated[str, Field(max_length=2000)]
    """URI of the model's folder."""
    configuration: Annotated[str, Field(max_length=1_000_000)]
    """Its config.json."""
    beside: Beside = {}
    """Its chat template and the like."""
    files: Annotated[tuple[ForeignFile, ...], Field(min_length=1, max_length=10_000)]


def read_first(data: bytes) -> FirstWeights | ForeignWeights:
    """An `origin.json`. Raises ValidationError."""
    return _FIRST.validate_json(data)


_FIRST: TypeAdapter[FirstWeights | ForeignWeights] = TypeAdapter(FirstWeights | ForeignWeights)


class Override(Record):
    """One value that this place could not take as it was asked."""

    path: Annotated[str, Field(max_length=300)]
    asked: Text
    used: Text
    why: Text

    def __str__(self) -> str:
        return f"{self.path}: {self.asked} -> {self.used} ({self.why})"


class ResolvedRun(Record):
    """One start of a run."""

    start: Annotated[int, Field(ge=1)]
    """How many starts the run has had, this one included."""
    started: float
    """Unix seconds of this start."""
    created: float
    """Unix seconds of the first start."""
    asked: TrainingRun
    """As the manifests and `--set` say it."""
    run: TrainingRun
    """As it runs here, overrides applied."""
    overrides: Annotated[tuple[Override, ...], Field(max_length=100)] = ()
    """Everything in which `run` differs from `asked`."""
    recipe: Recipe | None = None
    """The model's dimensions; the vocabulary comes with the dataset. None where a model of others has its own."""
    origin: ResolvedOrigin | None = None
    """Given when `run.spec.model.from` is."""
    datasets: dict[str, ResolvedDataset]
    """By the name that `run.spec.data.mix` uses."""
    storage: Annotated[str, Field(max_length=2000)]
    """URI of this run's own folder: below it lie `log/`, `journal/` and `checkpoints/`."""
    device: Device
    threads: Annotated[int, Field(ge=1, le=1024)]
    """Threads that each trainer computes with; never changed after the first start, because it decides bits."""
    coordinator: Annotated[str, Field(max_length=700)]
    """HOST:PORT of the coordinator in this start, or of both: HOST:PORT,HOST:PORT."""
    first_key: Annotated[int, Field(ge=1)] | None = None
    """Number of the key that this start's pods begin with, on a cluster; later ones come while they run. None: one
    key without a number, and no TLS (on one machine; runs that an older version began)."""
    ordered_by: Annotated[str, Field(max_length=317)] = ""
    """Label of the cluster's nodes by whose values ranks are brought together; empty: they are not."""
    node_price: Annotated[float, Field(ge=0)] | None = None
    """Of a node an hour, where it is given."""
    versions: dict[str, str] = {}
    """Of Tessera, Python and the libraries that decide results."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.metadata.name

    @property
    def total_steps(self) -> Count:
        """Optimizer steps of the whole run."""
        return self.run.spec.total_steps

    def encode(self) -> bytes:
        """The bytes of `run.json`."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode() + b"\n"


def read_resolved_run(path: Path) -> ResolvedRun:
    """The document at `path`. Raises OSError, or pydantic.ValidationError whose text names the field."""
    return ResolvedRun.model_validate_json(path.read_bytes())
