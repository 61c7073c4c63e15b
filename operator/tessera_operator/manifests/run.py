"""The objects of a run: key, run.json, services, coordinator, nodes."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from tessera_api.resolved_run import ResolvedRun
from tessera_operator import names
from tessera_operator.manifests import pod_template
from tessera_operator.manifests.pods import (
    RUN_FOLDER,
    Manifest,
    container,
    owned,
    pod_spec,
    storage_environment,
)
from tessera_operator.profiles import Profile, Settings

_LAST_WORDS = {"name": "TESSERA_LAST_WORDS", "value": "/dev/termination-log"}
"""Where Kubernetes takes a container's last message from."""


@dataclass(frozen=True)
class Owner:
    """The run that everything belongs to."""

    namespace: str
    name: str
    uid: str

    def metadata(self, name: str, role: str = "", **labels: str) -> Manifest:
        """Metadata of a child."""
        ours = {names.RUN_LABEL: self.name, "app.kubernetes.io/managed-by": "tessera"}
        if role:
            ours[names.ROLE_LABEL] = role
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": ours | labels,
            "ownerReferences": [owned("TrainingRun", self.name, self.uid)],
        }


def key_secret(owner: Owner, key: bytes, control: bytes) -> Manifest:
    """The run's key, for its own pods, and the control key, for its coordinators."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": owner.metadata(names.secret_name(owner.name, owner.uid)),
        "immutable": True,
        "data": {"key": base64.b64encode(key).decode(), "control": base64.b64encode(control).decode()},
    }


def start_document(owner: Owner, resolved: ResolvedRun) -> Manifest:
    """run.json of one start; it never changes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owner.metadata(names.start_name(owner.name, resolved.start)),
        "immutable": True,
        "data": {"run.json": resolved.encode().decode()},
    }


def nodes_service(owner: Owner) -> Manifest:
    """Headless: gives every node a name."""
    selector = {names.RUN_LABEL: owner.name, names.ROLE_LABEL: names.WORKER}
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata(names.service_name(owner.name)),
        "spec": spec,
    }


def coordinator_service(owner: Owner, slot: str, attempt: int) -> Manifest:
    """Leads to the one pod that is meant to be in the coordinator's slot, never to one before it on a lost node."""
    selector = {
        names.RUN_LABEL: owner.name,
        names.ROLE_LABEL: names.COORDINATOR,
        names.SLOT_LABEL: slot,
        names.ATTEMPT_LABEL: str(attempt),
    }
    ports = [{"name": "streams", "port": names.PORT, "targetPort": names.PORT}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata(names.coordinator_service(owner.name, slot)),
        "spec": {"selector": selector, "ports": ports, "publishNotReadyAddresses": True},
    }


def coordinator_pod(owner: Owner, resolved: ResolvedRun, settings: Settings, slot: str, attempt: int) -> Manifest:
    """A small pod without devices; where it can, apart from the other coordinator and off the nodes that train."""
    name = names.pod_name(owner.name, slot, attempt)
    arguments = ["tessera_coordinator", "--run-directory", RUN_FOLDER, "--listen", f"0.0.0.0:{names.PORT}"]
    slots = names.coordinator_slots(resolved.coordinator)
    if len(slots) > 1:
        peer = resolved.coordinator.split(",")[1 - slots.index(slot)]
        arguments += ["--name", name, "--slot", slot, "--peer", peer]
    arguments += ["--metrics", f"0.0.0.0:{names.METRICS_PORT}"]
    secret = resolved.run.spec.storage.secret_ref
    body = container(
        *("coordinator", settings.operator_image, settings.pull_policy, arguments),
        env=[*storage_environment(secret.name if secret else None), _LAST_WORDS],
        ports=[
            {"name": "streams", "containerPort": names.PORT},
            {"name": "metrics", "containerPort": names.METRICS_PORT},
        ],
        resources=settings.coordinator_resources,
        volumeMounts=[*_run_mounts(), {"name": "control", "mountPath": f"{RUN_FOLDER}/control", "readOnly": True}],
    )
    labels = {names.SLOT_LABEL: slot, names.ATTEMPT_LABEL: str(attempt)}
    spec = pod_spec(
        *(body, [*_run_volumes(owner, resolved), _control_volume(owner)]),
        nodeSelector=settings.coordinator_node_selector,
        tolerations=list(settings.coordinator_tolerations),
        affinity=_away(owner) | _off(settings),
        topologySpreadConstraints=[_spread(owner)],
        # Kubernetes starts a program that ended again, without a word to anybody: quicker than a new pod.
        restartPolicy="OnFailure",
        terminationGracePeriodSeconds=10,
        **_priority(resolved),
    )
    metadata = owner.metadata(name, names.COORDINATOR, **labels)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return pod_template.dress(pod, pod_template.template_of(resolved))


@dataclass(frozen=True)
class Place:
    """Which pod of which slot."""

    slot: str
    attempt: int
    avoids: tuple[str, ...] = ()
    """Nodes on which it may not be placed."""


def worker_pod(owner: Owner, resolved: ResolvedRun, settings: Settings, profile: Profile, place: Place) -> Manifest:
    """A node of the run: torchrun's agent and its trainers."""
    template = pod_template.template_of(resolved)
    name = names.pod_name(owner.name, place.slot, place.attempt)
    arguments = ["tessera_trainer.agent", "--run-directory", RUN_FOLDER, "--node", name]
    arguments += ["--coordinator", resolved.coordinator]
    secret = resolved.run.spec.storage.secret_ref
    needed: list[Manifest] = [{"name": key, "value": value} for key, value in profile.environment.items()]
    needed += [*storage_environment(secret.name if secret else None), {"name": "TESSERA_SHOW_RANKS", "value": "1"}]
    mounts = [{"name": "cache", "mountPath": "/cache"}, {"name": "memory", "mountPath": "/dev/shm"}]
    body = container(
        *("node", template.image or settings.trainer_image, settings.pull_policy, arguments),
        env=pod_template.environment(template, needed),
        resources=pod_template.resources(template, profile),
        volumeMounts=[*_run_mounts(), *mounts, *pod_template.mounts(template)],
        **pod_template.environment_from(template),
    )
    memory = {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shared_memory}}
    volumes = pod_template.volumes(template)
    spec = pod_spec(
        *(body, [*_run_volumes(owner, resolved), {"name": "cache", "emptyDir": {}}, memory, *volumes]),
        hostname=name,
        subdomain=names.service_name(owner.name),
        nodeSelector=template.node_selector | profile.node_selector,
        tolerations=pod_template.tolerations(template, profile),
        affinity=(_apart(owner) if profile.one_pod_per_host else {})
        | pod_template.node_affinity(template, place.avoids),
        terminationGracePeriodSeconds=30,
        **_priority(resolved),
    )
    labels = {names.SLOT_LABEL: place.slot, names.ATTEMPT_LABEL: str(place.attempt)}
    metadata = owner.metadata(name, names.WORKER, **labels)
    metadata["annotations"] = {names.AVOIDS_ANNOTATION: ",".join(place.avoids)}
    return pod_template.dress({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, template)


def _spread(owner: Owner) -> Manifest:
    """Counts beside `_away`: two wishes for hosts of their own outweigh the one for a host that does not train."""
    labels = {names.RUN_LABEL: owner.name, names.ROLE_LABEL: names.COORDINATOR}
    where = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    return {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", **where}


def _away(owner: Owner) -> Manifest:
    labels = {names.RUN_LABEL: owner.name, names.ROLE_LABEL: names.COORDINATOR}
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _off(settings: Settings) -> Manifest:
    """Away from nodes that a profile selects."""
    chosen = {pair for profile in settings.profiles.values() for pair in profile.node_selector.items()}
    if not chosen:
        return {}
    expressions = [{"key": key, "operator": "NotIn", "values": [value]} for key, value in sorted(chosen)]
    preferred = [{"weight": 50, "preference": {"matchExpressions": expressions}}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _priority(resolved: ResolvedRun) -> Manifest:
    name = resolved.run.spec.priority_class_name
    return {"priorityClassName": name} if name is not None else {}


def _apart(owner: Owner) -> Manifest:
    labels = {names.RUN_LABEL: owner.name, names.ROLE_LABEL: names.WORKER}
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _run_volumes(owner: Owner, resolved: ResolvedRun) -> list[Manifest]:
    """The run's folder, with key and run.json in it."""
    return [
        {"name": "run", "emptyDir": {}},
        {"name": "key", "secret": _own_key(names.secret_name(owner.name, owner.uid))},
        {"name": "start", "configMap": {"name": names.start_name(owner.name, resolved.start)}},
    ]


def _own_key(secret: str) -> Manifest:
    return {"secretName": secret, "items": [{"key": "key", "path": "key"}], "defaultMode": 0o440}


def _control_volume(owner: Owner) -> Manifest:
    """Optional: the Secret of a run that an older version began has no such key."""
    secret = names.secret_name(owner.name, owner.uid)
    items = [{"key": "control", "path": "key"}]
    return {"name": "control", "secret": {"secretName": secret, "items": items, "defaultMode": 0o440, "optional": True}}


def _run_mounts() -> list[Manifest]:
    return [
        {"name": "run", "mountPath": RUN_FOLDER},
        {"name": "key", "mountPath": f"{RUN_FOLDER}/key", "subPath": "key", "readOnly": True},
        {"name": "start", "mountPath": f"{RUN_FOLDER}/run.json", "subPath": "run.json", "readOnly": True},
    ]
