"""Starting a run: from what was asked to `run.json`, or the reasons why not.

Owns the decision whether a run directory may be driven by these manifests. What must stay true: nothing is written
before everything is judged; `run.json` is replaced whole, and the start before is kept as `run-N.json`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tessera_api.difference import difference
from tessera_api.exit_codes import ExitCode
from tessera_api.log import Commit, End
from tessera_api.recipes import Recipe, recipe
from tessera_api.resolved_run import (
    Device,
    ResolvedDataset,
    ResolvedOrigin,
    ResolvedRun,
    read_resolved_run,
)
from tessera_api.run_directory import RunDirectory
from tessera_api.training_run import TrainingRun
from tessera_api.versions import versions
from tessera_cli.laptop import Fitted, Machine
from tessera_cli.loopback import free_port
from tessera_cli.refusal import Refused
from tessera_cli.run_log_entries import read_entries
from tessera_cli.workplace import Workplace
from tessera_store import open_store

KEY_BYTES = 32


@dataclass(frozen=True)
class Asked:
    """One run as it is to be started."""

    asked: TrainingRun
    fitted: Fitted[TrainingRun]
    device: Device
    machine: Machine

    @property
    def name(self) -> str:
        """The run's name."""
        return self.asked.metadata.name

    @property
    def storage(self) -> str:
        """URI of the run's own folder."""
        return f"{self.fitted.resource.spec.storage.uri.rstrip('/')}/{self.name}"


def earlier_start(directory: RunDirectory) -> ResolvedRun | None:
    """The newest start of the run in a directory; None for a new run. Raises Refused if it is no run's."""
    if directory.run_json.exists():
        return known_run(directory)
    ours = {directory.lock.name, directory.key.name, ".tessera-parts"}
    strangers = sorted({entry.name for entry in directory.root.iterdir()} - ours) if directory.root.exists() else []
    if strangers:
        raise Refused(
            f"{directory.root} is not empty and no run's directory (it holds {', '.join(strangers[:3])}, but no"
            " run.json): give the run another name, choose another --workdir, or move the folder away"
        )
    return None


def known_run(directory: RunDirectory) -> ResolvedRun:
    """The newest start of a run. Raises Refused when the directory is no run's."""
    try:
        return read_resolved_run(directory.run_json)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refused(
            f"{directory.root} is no run's directory: there is no run.json; give WORKDIR/runs/NAME"
        ) from error
    except (OSError, ValidationError) as error:
        raise Refused(f"{directory.run_json} cannot be read: {error}") from error


def refuse_changes(before: ResolvedRun, asked: TrainingRun) -> list[str]:
    """The changes of mutable fields since the start before. Raises Refused with every change that may not be."""
    changes = difference(before.asked.spec, asked.spec)
    frozen = [change for change in changes if not change.mutable]
    if frozen:
        lines = "\n".join(f"  {change}" for change in frozen)
        raise Refused(f"the manifest of run {before.name} differs from the one it was started with:\n{lines}")
    return [str(change) for change in changes]


def refuse_other_storage(before: ResolvedRun, asked: Asked, root: Path) -> None:
    """Raises Refused when the run's log would be looked for in another place. A moved run directory is none."""
    moved = before.storage.startswith("file:") and asked.storage == root.as_uri()
    if before.storage != asked.storage and not moved:
        overridden = before.asked.spec.storage != before.run.spec.storage
        kept = before.run.spec.storage.uri
        remedy = "leave --set storage.uri out" if overridden else f"go on with --set storage.uri={kept}"
        raise Refused(
            f"run {before.name} has its log and checkpoints in {before.storage}, and would go on in {asked.storage}"
            f" from step 0: {remedy}, or give the run another name"
        )


def refuse_other_data(before: ResolvedRun, datasets: Mapping[str, ResolvedDataset]) -> None:
    """Raises Refused when a dataset is not the one that the run began with."""
    others = [
        f"  {name}: fingerprint {before.datasets[name].fingerprint} -> {dataset.fingerprint}"
        for name, dataset in datasets.items()
        if name in before.datasets and before.datasets[name].fingerprint != dataset.fingerprint
    ]
    if others:
        lines = "\n".join(others)
        raise Refused(
            f"run {before.name} was begun on other data:\n{lines}\n"
            "  build the datasets as they were, or start a new run"
        )


def resolve_origin(asked: TrainingRun, place: Workplace) -> tuple[ResolvedOrigin | None, Recipe | None]:
    """Where the first weights come from, and the model's dimensions. Raises Refused when that run is not complete."""
    model = asked.spec.model
    if model.from_ is None:
        assert model.recipe is not None  # exactly one of the two is a rule of the schema
        return None, recipe(model.recipe)
    if model.from_.uri is not None:
        return ResolvedOrigin(storage=model.from_.uri), None
    name = model.from_.run
    assert name is not None
    directory = place.run(name)
    if not directory.run_json.exists():
        raise Refused(
            f"run {asked.metadata.name} starts from run {name}, which is not in {place.runs}: run {name} first"
        )
    origin = known_run(directory)
    entries = read_entries(origin.storage)
    end = entries[-1] if entries and isinstance(entries[-1], End) else None
    committed = any(isinstance(entry, Commit) for entry in entries)
    if end is None or end.reason != "complete" or not committed:
        state = "has not ended" if end is None else f"failed: {end.message}"
        raise Refused(f"run {asked.metadata.name} starts from run {name}, which {state}: complete {name} first")
    if origin.run.spec.training.lora is not None:
        raise Refused(
            f"run {asked.metadata.name} starts from run {name}, whose weights lie apart from its adapter: start from"
            f" its export instead (model.from.uri: {directory.export.as_uri()})"
        )
    return ResolvedOrigin(run=name, storage=origin.storage), origin.recipe


def write_start(
    asked: Asked, place: Workplace, datasets: Mapping[str, ResolvedDataset], before: ResolvedRun | None
) -> ResolvedRun:
    """Make `run.json` for this start. The caller holds the directory's lock and has judged everything."""
    now = time.time()
    origin, dimensions = resolve_origin(asked.asked, place)
    nodes = asked.fitted.resource.spec.nodes
    threads = max(1, asked.machine.processors // (nodes.count * nodes.processes_per_node))
    resolved = ResolvedRun(
        start=before.start + 1 if before else 1,
        started=now,
        created=before.created if before else now,
        asked=asked.asked,
        run=asked.fitted.resource,
        overrides=asked.fitted.overrides,
        recipe=dimensions,
        origin=origin,
        datasets=dict(datasets),
        storage=asked.storage,
        device=asked.device,
        threads=before.threads if before else threads,
        coordinator=f"127.0.0.1:{free_port()}",
        versions=versions(),
    )
    store = open_store(place.run(asked.name).root.as_uri())
    if before is not None:
        store.put(f"run-{before.start}.json", before.encode())
    store.put("run.json", resolved.encode())
    return resolved


def run_key(path: Path) -> bytes:
    """The run's key, made at the first start; a file that only its owner can read."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_BYTES)
        temporary = path.with_name(".key.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    if len(key) != KEY_BYTES:
        raise Refused(f"{path} has {len(key)} bytes, a key has {KEY_BYTES}: remove it", ExitCode.WRONG_INPUT)
    return key
