"""What a run asks for its own pods, laid over what they need: nothing of the latter can be taken away."""

from __future__ import annotations

from typing import Any

from tessera_api.pod_template import PodTemplate, Volume
from tessera_api.resolved_run import ResolvedRun
from tessera_api.resource import Document
from tessera_api.training_run import TrainingRun
from tessera_operator.manifests.pods import Manifest
from tessera_operator.profiles import Profile


def template_of(resolved: ResolvedRun) -> PodTemplate:
    """What the run asks for; nothing where it is silent."""
    return template_of_run(resolved.run)


def template_of_run(run: TrainingRun) -> PodTemplate:
    """The same of a run that has not begun."""
    return run.spec.pod_template or PodTemplate()


def dress(pod: Manifest, template: PodTemplate) -> Manifest:
    """A pod of any role with the run's labels, annotations, pull secrets and identity. Our own labels win."""
    metadata, spec = pod["metadata"], pod["spec"]
    annotations = template.annotations | (metadata.get("annotations") or {})
    more: Manifest = {}
    if template.image_pull_secrets:
        more["imagePullSecrets"] = [_written(secret) for secret in template.image_pull_secrets]
    if template.service_account_name is not None:
        more["serviceAccountName"] = template.service_account_name
    labels = template.labels | metadata["labels"]
    dressed = {**metadata, "labels": labels, **({"annotations": annotations} if annotations else {})}
    return {**pod, "metadata": dressed, "spec": {**spec, **more}}


def resources(template: PodTemplate, profile: Profile) -> Manifest:
    """The profile's requests and limits; where the run names the same resource, the run's amount."""
    kinds = {"requests": template.resources.requests, "limits": template.resources.limits}
    merged = {kind: {**profile.resources.get(kind, {}), **own} for kind, own in kinds.items()}
    return {kind: amounts for kind, amounts in merged.items() if amounts}


def environment(template: PodTemplate, needed: list[Manifest]) -> list[Manifest]:
    """Variables by name: those that are needed, and in place of one of the same name the run's own."""
    own = [_written(variable) for variable in template.env]
    replaced = {variable["name"] for variable in own}
    return [*(variable for variable in needed if variable["name"] not in replaced), *own]


def environment_from(template: PodTemplate) -> Manifest:
    """`envFrom`, where there is any."""
    sources = [_written(source) for source in template.env_from]
    return {"envFrom": sources} if sources else {}


def tolerations(template: PodTemplate, profile: Profile) -> list[Manifest]:
    """The profile's, then the run's."""
    return [*profile.tolerations, *(_written(toleration) for toleration in template.tolerations)]


def volumes(template: PodTemplate) -> list[Manifest]:
    """The run's own, under names that meet none of ours."""
    return [{"name": _volume_name(volume), **_source(volume)} for volume in template.volumes]


def mounts(template: PodTemplate) -> list[Manifest]:
    """Where they appear."""
    return [
        {"name": _volume_name(volume), "mountPath": volume.mount_path, "readOnly": volume.read_only}
        for volume in template.volumes
    ]


def node_affinity(template: PodTemplate, avoids: tuple[str, ...], spares: tuple[str, ...] = ()) -> Manifest:
    """The nodes that the run asks for, without those that it avoids: each of the terms, which stand side by side, has
    to say so. Those that it spares are left out where that can be."""
    asked = (
        template.affinity.node_affinity.required_during_scheduling_ignored_during_execution
        if template.affinity
        else None
    )
    terms = [_written(term)["matchExpressions"] for term in asked.node_selector_terms] if asked else []
    away = [_not_on(avoids)] if avoids else []
    chosen = [[*expressions, *away] for expressions in terms or ([[]] if away else [])]
    affinity: Manifest = {}
    if chosen:
        selector = {"nodeSelectorTerms": [{"matchExpressions": expressions} for expressions in chosen]}
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = selector
    if spares:
        preferred = [{"weight": 100, "preference": {"matchExpressions": [_not_on(spares)]}}]
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
    return {"nodeAffinity": affinity} if affinity else {}


def _not_on(nodes: tuple[str, ...]) -> Manifest:
    return {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": list(nodes)}


def _volume_name(volume: Volume) -> str:
    return f"own-{volume.name}"


def _source(volume: Volume) -> Manifest:
    kinds = ("persistentVolumeClaim", "configMap", "secret", "emptyDir")
    return {kind: source for kind, source in _written(volume).items() if kind in kinds}


def _written(part: Document) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)
