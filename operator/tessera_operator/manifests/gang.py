"""Places for all of a run's pods at once, which others find: Kueue's Workload, the pod groups of three schedulers."""

from __future__ import annotations

from tessera_api.training_run import TrainingRun
from tessera_operator import names
from tessera_operator.core.queue import COORDINATORS, NODES
from tessera_operator.manifests import pod_template
from tessera_operator.manifests.pods import Manifest
from tessera_operator.manifests.run import Owner
from tessera_operator.profiles import Gang, Settings

COSCHEDULING_SECONDS = 120


def workload(owner: Owner, run: TrainingRun, start: int, settings: Settings, priority: int | None) -> Manifest:
    """What one start asks of Kueue: all nodes, the spares too, so that a replacement takes nobody's quota, and the
    coordinators."""
    nodes, profile = run.spec.nodes, settings.profiles[run.spec.nodes.accelerator]
    template = pod_template.template_of_run(run)
    worker = _pod(
        "node",
        pod_template.resources(template, profile),
        nodeSelector=template.node_selector | profile.node_selector,
        tolerations=pod_template.tolerations(template, profile),
    )
    coordinator = _pod(
        "coordinator",
        settings.coordinator_resources,
        nodeSelector=settings.coordinator_node_selector,
        tolerations=list(settings.coordinator_tolerations),
    )
    sets = [
        {"name": NODES, "count": nodes.count + nodes.spares, "template": {"spec": worker}},
        {"name": COORDINATORS, "count": len(names.COORDINATOR_SLOTS), "template": {"spec": coordinator}},
    ]
    spec: Manifest = {"queueName": run.spec.queue_name, "podSets": sets}
    if run.spec.priority_class_name is not None and priority is not None:
        reference = {"group": "scheduling.k8s.io", "kind": "PriorityClass", "name": run.spec.priority_class_name}
        spec |= {"priorityClassRef": reference, "priority": priority}
    metadata = owner.metadata(names.start_name(owner.name, start))
    return {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": metadata, "spec": spec}


def _pod(name: str, resources: Manifest, **more: object) -> Manifest:
    container = {"name": name, "image": name, "resources": resources}
    return {"restartPolicy": "Never", "containers": [container], **more}


Flavors = list[Manifest]
"""Kueue's ResourceFlavors: kinds of machines."""


def placed(settings: Settings, accelerator: str, nodes: Flavors, coordinators: Flavors) -> Settings:
    """The settings of one start: its one profile and its coordinators on the kinds of machines that Kueue assigned."""
    profile = settings.profiles[accelerator]
    labels, tolerations = _where(nodes)
    there = {"node_selector": profile.node_selector | labels, "tolerations": (*profile.tolerations, *tolerations)}
    changed: Manifest = {"profiles": {accelerator: profile.model_copy(update=there)}}
    labels, tolerations = _where(coordinators)
    changed["coordinator_node_selector"] = settings.coordinator_node_selector | labels
    changed["coordinator_tolerations"] = (*settings.coordinator_tolerations, *tolerations)
    return settings.model_copy(update=changed)


def _where(flavors: Flavors) -> tuple[dict[str, str], list[Manifest]]:
    specs = [flavor.get("spec") or {} for flavor in flavors]
    labels = {key: value for spec in specs for key, value in (spec.get("nodeLabels") or {}).items()}
    return labels, [each for spec in specs for each in spec.get("tolerations") or []]


def pod_group(owner: Owner, run: TrainingRun, start: int, gang: Gang) -> Manifest | None:
    """The group of a start's nodes, for a scheduler that places so many of them or none; None where there is no such
    scheduler. Fewer than `nodes.min` could not train; more begin alone."""
    metadata, least = owner.metadata(names.start_name(owner.name, start)), run.spec.nodes.min
    match gang:
        case Gang.VOLCANO:
            spec: Manifest = {"minMember": least}
            spec |= {"queue": run.spec.queue_name} if run.spec.queue_name is not None else {}
            spec |= {"priorityClassName": run.spec.priority_class_name} if run.spec.priority_class_name else {}
            return {
                "apiVersion": "scheduling.volcano.sh/v1beta1",
                "kind": "PodGroup",
                "metadata": metadata,
                "spec": spec,
            }
        case Gang.COSCHEDULING:
            spec = {"minMember": least, "scheduleTimeoutSeconds": COSCHEDULING_SECONDS}
            return {
                "apiVersion": "scheduling.x-k8s.io/v1alpha1",
                "kind": "PodGroup",
                "metadata": metadata,
                "spec": spec,
            }
        case Gang.NATIVE:
            group = {"name": NODES, "policy": {"gang": {"minCount": least}}}
            reference = {"apiGroup": "tessera.dev", "kind": "TrainingRun", "name": owner.name}
            spec = {"controllerRef": reference, "podGroups": [group]}
            return {"apiVersion": "scheduling.k8s.io/v1alpha1", "kind": "Workload", "metadata": metadata, "spec": spec}
        case Gang.KUEUE | Gang.NONE:
            return None


def join(pod: Manifest, run: str, start: int, settings: Settings) -> Manifest:
    """A node's pod as a member of its group."""
    group, metadata, spec = names.start_name(run, start), pod["metadata"], pod["spec"]
    scheduler = {"schedulerName": settings.scheduler_name} if settings.scheduler_name else {}
    match settings.gang:
        case Gang.VOLCANO:
            annotations = {**(metadata.get("annotations") or {}), "scheduling.k8s.io/group-name": group}
            return {**pod, "metadata": {**metadata, "annotations": annotations}, "spec": {**spec, **scheduler}}
        case Gang.COSCHEDULING:
            labels = {**metadata["labels"], "scheduling.x-k8s.io/pod-group": group}
            return {**pod, "metadata": {**metadata, "labels": labels}, "spec": {**spec, **scheduler}}
        case Gang.NATIVE:
            return {**pod, "spec": {**spec, **scheduler, "workloadRef": {"name": group, "podGroup": NODES}}}
        case Gang.KUEUE | Gang.NONE:
            return pod
