"""The objects of a run: key, run.json, services, coordinator, nodes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from tessera_api.resolved_run import ResolvedRun
from tessera_operator import names
from tessera_operator.keys import RunKeys
from tessera_operator.manifests import pod_template
from tessera_operator.manifests.pods import (
    RUN_FOLDER,
    Manifest,
    container,
    owned,
    pod_spec,
    storage_environment,
    with_rights,
)
from tessera_operator.profiles import Profile, Settings

GRACE_SECONDS = 30
"""From SIGTERM to SIGKILL of a node: it hands over with a commit, if one takes less."""
_COMPILED_CODE = {"name": "TESSERA_COMPILED_CODE", "value": f"{RUN_FOLDER}/compiled-code"}
"""Not in the cache's volume: that may be one of the host's, which others write to, and this code is run."""
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


_FOR_NODES, _FOR_COORDINATORS = ("key", "tls.crt"), ("key", "control", "tls.crt", "tls.key")


def key_secret(owner: Owner, keys: RunKeys) -> Manifest:
    """One of the run's keys: for its nodes the run's key and the certificate, all of it for its coordinators."""
    secrets = (keys.run, keys.control, keys.certificate.encode(), keys.private.encode())
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": owner.metadata(names.keys_name(owner.name, owner.uid, keys.number)),
        "immutable": True,
        "data": {
            name: base64.b64encode(value).decode() for name, value in zip(_FOR_COORDINATORS, secrets, strict=True)
        },
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
        volumeMounts=[*_run_mounts(), *_key_mounts(resolved, names.COORDINATOR)],
    )
    labels = {names.SLOT_LABEL: slot, names.ATTEMPT_LABEL: str(attempt)}
    spec = pod_spec(
        *(body, [*_run_volumes(owner, resolved), *_key_volumes(owner, resolved, names.COORDINATOR)]),
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
    spares: tuple[str, ...] = ()
    """Nodes on which it is placed only where no other has room."""


def worker_pod(owner: Owner, resolved: ResolvedRun, settings: Settings, profile: Profile, place: Place) -> Manifest:
    """A node of the run: torchrun's agent and its trainers."""
    template = pod_template.template_of(resolved)
    name = names.pod_name(owner.name, place.slot, place.attempt)
    arguments = ["tessera_trainer.agent", "--run-directory", RUN_FOLDER, "--node", name]
    arguments += ["--coordinator", resolved.coordinator]
    secret = resolved.run.spec.storage.secret_ref
    needed: list[Manifest] = [{"name": key, "value": value} for key, value in profile.environment.items()]
    needed += [*storage_environment(secret.name if secret else None), {"name": "TESSERA_SHOW_RANKS", "value": "1"}]
    needed.append({"name": "TESSERA_GRACE_SECONDS", "value": str(GRACE_SECONDS)})
    needed.append(_COMPILED_CODE)
    mounts = [{"name": "cache", "mountPath": "/cache"}, {"name": "memory", "mountPath": "/dev/shm"}]
    body = container(
        *("node", template.image or settings.trainer_image, settings.pull_policy, arguments),
        env=pod_template.environment(template, needed),
        resources=pod_template.resources(template, profile),
        volumeMounts=[*_run_mounts(), *_key_mounts(resolved, names.WORKER), *mounts, *pod_template.mounts(template)],
        **pod_template.environment_from(template),
    )
    memory = {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": profile.shared_memory}}
    keys, volumes = _key_volumes(owner, resolved, names.WORKER), pod_template.volumes(template)
    spec = pod_spec(
        *(body, [*_run_volumes(owner, resolved), *keys, {"name": "cache", **profile.cache_volume}, memory, *volumes]),
        hostname=name,
        subdomain=names.service_name(owner.name),
        nodeSelector=template.node_selector | profile.node_selector,
        tolerations=pod_template.tolerations(template, profile),
        affinity=(_apart(owner) if profile.one_pod_per_host else {})
        | pod_template.node_affinity(template, place.avoids, place.spares),
        terminationGracePeriodSeconds=GRACE_SECONDS,
        **_priority(resolved),
    )
    labels = {names.SLOT_LABEL: place.slot, names.ATTEMPT_LABEL: str(place.attempt)}
    metadata = owner.metadata(name, names.WORKER, **labels)
    metadata["annotations"] = {**profile.annotations, names.AVOIDS_ANNOTATION: ",".join(place.avoids)}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": with_rights(spec, profile)}
    return pod_template.dress(pod, template)


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
    """The run's folder, with run.json in it."""
    return [
        {"name": "run", "emptyDir": {}},
        {"name": "start", "configMap": {"name": names.start_name(owner.name, resolved.start)}},
    ]


def _key_volumes(owner: Owner, resolved: ResolvedRun, role: str) -> list[Manifest]:
    """The start's first key, and the places of those that may follow while its pods run."""
    if resolved.first_key is None:
        return _older_key_volumes(owner, role)
    files = _FOR_COORDINATORS if role == names.COORDINATOR else _FOR_NODES
    sources = []
    for number in range(resolved.first_key, resolved.first_key + names.KEYS_AHEAD + 1):
        items = [{"key": file, "path": f"{number}/{file}"} for file in files]
        name = names.keys_name(owner.name, owner.uid, number)
        sources.append({"secret": {"name": name, "items": items, "optional": number != resolved.first_key}})
    return [{"name": "keys", "projected": {"sources": sources, "defaultMode": 0o440}}]


def _key_mounts(resolved: ResolvedRun, role: str) -> list[Manifest]:
    if resolved.first_key is None:
        control = {"name": "control", "mountPath": f"{RUN_FOLDER}/control", "readOnly": True}
        key = {"name": "key", "mountPath": f"{RUN_FOLDER}/key", "subPath": "key", "readOnly": True}
        return [key, control] if role == names.COORDINATOR else [key]
    return [{"name": "keys", "mountPath": f"{RUN_FOLDER}/keys", "readOnly": True}]


def _older_key_volumes(owner: Owner, role: str) -> list[Manifest]:
    """Of a start that an older version began: one key for good, and perhaps a control key."""
    secret = names.secret_name(owner.name, owner.uid)

    def volume(name: str, **more: Any) -> Manifest:
        items = [{"key": name, "path": "key"}]
        return {"name": name, "secret": {"secretName": secret, "items": items, "defaultMode": 0o440, **more}}

    key, control = volume("key"), volume("control", optional=True)
    return [key, control] if role == names.COORDINATOR else [key]


def _run_mounts() -> list[Manifest]:
    return [
        {"name": "run", "mountPath": RUN_FOLDER},
        {"name": "start", "mountPath": f"{RUN_FOLDER}/run.json", "subPath": "run.json", "readOnly": True},
    ]
