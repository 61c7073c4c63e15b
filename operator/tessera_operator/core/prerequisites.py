"""Why a run cannot begin yet, or never will as it is: the first thing that lacks. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera_api.data_fit import unfit_data
from tessera_api.resource import Condition
from tessera_operator.core.queue import waits_for
from tessera_operator.core.resolve import resolved_datasets
from tessera_operator.core.view import View


@dataclass(frozen=True)
class Blocked:
    """The run cannot begin."""

    reason: str
    message: str


def blocked_by(view: View) -> Blocked | None:
    """A mistake with its remedy, or something that is waited for."""
    spec = view.run.spec
    if spec.nodes.accelerator not in view.profiles:
        known = ", ".join(sorted(view.profiles)) or "none"
        words = f"spec.nodes.accelerator is {spec.nodes.accelerator}; profiles of this installation: {known}"
        return Blocked("UnknownAccelerator", f"{words}: choose one of them, or ask the administrator for a new one")
    if not spec.storage.uri.startswith("s3://"):
        words = f"spec.storage.uri is {spec.storage.uri}, which pods on several nodes do not share"
        return Blocked("StorageNotShared", f"{words}: give an s3:// address")
    if spec.pod_template is not None and not view.pod_templates:
        words = "spec.podTemplate is not taken by this installation, in which nobody judges who wrote it"
        return Blocked(
            "PodTemplateRefused", f"{words}: leave it out, or ask the administrator (podTemplates of the chart)"
        )
    if spec.queue_name is not None and not view.queues:
        words = f"spec.queueName is {spec.queue_name}, and this installation has no queues"
        return Blocked("NoQueues", f"{words}: leave it out, or ask the administrator (gang of the chart)")
    if view.start_number > 1:
        return None  # a later start has what the first one had
    return _datasets(view) or _origin(view) or _unfit(view)


def queued(view: View) -> Blocked | None:
    """What a run waits for that lacks nothing else."""
    words = waits_for(view.run, view.queue)
    return Blocked("Queued", words) if words else None


def _datasets(view: View) -> Blocked | None:
    for place, entry in enumerate(view.run.spec.data.mix):
        build = view.datasets.get(entry.dataset)
        path = f"spec.data.mix[{place}].dataset: {entry.dataset}"
        if build is None:
            return Blocked("DatasetMissing", f"{path} is no DatasetBuild of this namespace: create it, or name another")
        state = succeeded(build.conditions)
        if state is not None and state.status == "False":
            return Blocked("DatasetFailed", f"{path} could not be built: {state.message}"[:2000])
        if state is None or state.status != "True":
            return Blocked("DatasetNotReady", f"{path} is still being built")
    return None


def _origin(view: View) -> Blocked | None:
    origin = view.run.spec.model.from_
    if origin is None or origin.run is None:
        return None  # a model of others is looked at by the run's coordinator, which can reach it
    path = f"spec.model.from.run: {origin.run}"
    if origin.run == view.run.metadata.name:
        return Blocked("OriginIsItself", f"{path} is this run: name another run, or give model.recipe")
    if view.origin is None:
        return Blocked("OriginMissing", f"{path} is no TrainingRun of this namespace: create it, or name another")
    state = succeeded(view.origin.status.conditions)
    if state is not None and state.status == "False":
        again = f"delete {origin.run} and create it anew with what it lacked, or name another"
        return Blocked("OriginFailed", f"{path} has failed: {state.message[:1500]}; {again}")
    if state is None or state.status != "True":
        step = f", at step {view.origin.status.step}" if view.origin.status.step else ""
        return Blocked("OriginNotReady", f"{path} has not ended{step}")
    if view.origin.start is None:
        words = f"{path} has succeeded, but its ConfigMap with run.json is gone, which names its model and storage"
        return Blocked("OriginForgotten", f"{words}: delete {origin.run} and create it anew: it has ended at once")
    if view.origin.start.run.spec.training.lora is not None:
        words = f"{path} has trained an adapter, and its weights lie apart from it"
        return Blocked(
            "OriginHasAdapter", f"{words}: start from its export, model.from.uri: {view.origin.start.storage}/export"
        )
    return None


def _unfit(view: View) -> Blocked | None:
    origin = view.origin.start if view.origin is not None else None
    taught = next(iter(origin.datasets.values())) if origin is not None else None
    unfit = unfit_data(view.run, resolved_datasets(view.datasets), taught)
    return Blocked("DatasetsUnfit", unfit[:4000]) if unfit else None


def succeeded(conditions: Iterable[Condition] | None) -> Condition | None:
    """The condition `Succeeded`: Unknown until the end."""
    return next((c for c in conditions or () if c.type == "Succeeded"), None)
