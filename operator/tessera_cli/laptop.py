"""What a manifest becomes on one machine: every value that cannot be used as it was asked, each with its reason.

Pure. What must stay true: nothing is changed without an `Override` that says so; what `--set` gave is kept as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from tessera_api.dataset_build import DatasetBuild
from tessera_api.field_path import path_text
from tessera_api.findings import findings
from tessera_api.resolved_run import Device, Override
from tessera_api.training_run import TrainingRun
from tessera_cli.refusal import Refused
from tessera_cli.workplace import Workplace

CLUSTER_ONLY = (
    *("activeDeadlineSeconds", "managedBy", "podTemplate", "priorityClassName", "queueName"),
    "ttlSecondsAfterFinished",
)
"""Fields of a run that mean nothing on one machine."""

Resource = TypeVar("Resource", TrainingRun, DatasetBuild)


@dataclass(frozen=True)
class Machine:
    """What there is."""

    processors: int
    cuda_devices: int


@dataclass(frozen=True)
class Fitted(Generic[Resource]):
    """A resource as it runs here."""

    resource: Resource
    overrides: tuple[Override, ...]


def is_set(sets: Sequence[str], kind: str, name: str, path: str) -> bool:
    """Whether `--set` gives this resource a value at `path` (relative to the spec) or above it."""
    for text in sets:
        target, _, at = text.partition("=")[0].rpartition(":")
        at = at.removeprefix("spec.")
        if target in ("", name, f"{kind}/{name}") and (at == path or path.startswith(f"{at}.")):
            return True
    return False


def fit_build(build: DatasetBuild, place: Workplace, sets: Sequence[str]) -> Fitted[DatasetBuild]:
    """The build with a local output, unless `--set` chose one or the manifest's is local already."""
    name, asked = build.metadata.name, build.spec.output.uri
    if asked.startswith("file:") or is_set(sets, build.kind, name, "output.uri"):
        return Fitted(build, ())
    override = _local(f"{build.kind}/{name}: spec.output.uri", asked, place.datasets)
    return Fitted(_changed(build, {"output": {"uri": override.used}}), (override,))


def fit_run(
    run: TrainingRun, place: Workplace, sets: Sequence[str], machine: Machine, nodes: int | None = None
) -> tuple[Fitted[TrainingRun], Device]:
    """The run with local storage, the nodes of `--nodes`, and as many processes as there are devices for.

    Raises Refused when the manifest's other fields do not allow these nodes.
    """
    label, spec = f"{run.kind}/{run.metadata.name}", run.spec
    if spec.suspend:
        raise Refused(f"{label}: spec.suspend is true: here Ctrl-C stops a run; --set suspend=false starts it")
    changes: dict[str, Any] = {}
    overrides: list[Override] = []
    if not spec.storage.uri.startswith("file:") and not is_set(sets, run.kind, run.metadata.name, "storage.uri"):
        overrides.append(_local(f"{label}: spec.storage.uri", spec.storage.uri, place.runs))
        changes["storage"] = {"uri": overrides[-1].used}
    wanted, reasons = _nodes(run, nodes)
    device, each, why = _device(machine, wanted["count"], spec.nodes.processes_per_node)
    if device is Device.CPU and spec.nodes.accelerator != "cpu":
        raise Refused(
            f"{label}: spec.nodes.accelerator is {spec.nodes.accelerator}, and {why}:"
            " --set nodes.accelerator=cpu trains on the CPU"
        )
    if each != spec.nodes.processes_per_node:
        if is_set(sets, run.kind, run.metadata.name, "nodes.processesPerNode"):
            each = spec.nodes.processes_per_node
        else:
            wanted["processesPerNode"], reasons["processesPerNode"] = each, f"one process per node: {why}"
    spares = _spares(machine, device, wanted["count"] * each, each, spec.nodes.spares)
    if spares != spec.nodes.spares:
        wanted["spares"], reasons["spares"] = spares, f"{machine.cuda_devices} CUDA devices"
    asked = spec.nodes.model_dump(by_alias=True)
    changed = {field: value for field, value in wanted.items() if asked[field] != value}
    overrides += [
        Override(path=f"{label}: spec.nodes.{field}", asked=str(asked[field]), used=str(value), why=reasons[field])
        for field, value in changed.items()
    ]
    overrides.append(Override(path=f"{label}: device", asked="accelerator", used=device.value, why=why))
    fitted = _changed(run, changes | ({"nodes": asked | changed} if changed else {}))
    overrides += [
        Override(path=f"{label}: spec.{field}", asked=str(value), used="nothing", why="it works on a cluster only")
        for field in CLUSTER_ONLY
        if (value := spec.model_dump(by_alias=True, exclude_defaults=True).get(field)) is not None
    ]
    shown = [override for override in overrides if device is not Device.CUDA or not override.path.endswith(": device")]
    return Fitted(fitted, tuple(shown)), device


def _local(path: str, asked: str, folder: Path) -> Override:
    return Override(path=path, asked=asked, used=folder.as_uri(), why="local storage; --set keeps another")


def _nodes(run: TrainingRun, count: int | None) -> tuple[dict[str, int], dict[str, str]]:
    """What `--nodes` asks for; `min` and `max` make room for it."""
    nodes = run.spec.nodes
    if count is None:
        return {"count": nodes.count}, {}
    wanted = {"count": count, "min": min(nodes.min, count), "max": max(nodes.max, count)}
    return wanted, dict.fromkeys(wanted, f"--nodes {count}")


def _device(machine: Machine, count: int, each: int) -> tuple[Device, int, str]:
    """Which device, how many processes per node, and why."""
    fit = machine.cuda_devices // count
    if fit >= 1:
        return Device.CUDA, min(each, fit), f"{machine.cuda_devices} CUDA devices for {count} nodes"
    if machine.cuda_devices:
        return (
            Device.CPU,
            1,
            f"{machine.cuda_devices} CUDA devices are too few for {count} nodes: choose fewer with --nodes",
        )
    return Device.CPU, 1, "there is no CUDA device here"


def _spares(machine: Machine, device: Device, training: int, each: int, asked: int) -> int:
    return asked if device is Device.CPU else min(asked, max(0, machine.cuda_devices - training) // each)


def _changed(resource: Resource, changes: dict[str, Any]) -> Resource:
    """With other fields of the spec, judged again."""
    document = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["spec"] |= changes
    try:
        return type(resource).parse(document)
    except ValidationError as error:
        found = findings(type(resource), document)
        mistakes = "\n".join(
            f"  {path_text(item.path)}: {item.problem} (found {item.value}; remedy: {item.remedy})" for item in found
        )
        raise Refused(f"{resource.kind}/{resource.metadata.name} does not fit this machine:\n{mistakes}") from error
