"""What all our pods have in common: restricted rights, no token, a quick resolver, writable folders of their own."""

from __future__ import annotations

from typing import Any

from tessera_operator.profiles import Profile

Manifest = dict[str, Any]

USER = 65532
RUN_FOLDER = "/run/tessera/run"
_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")


def pod_spec(container: Manifest, volumes: list[Manifest], **more: Any) -> Manifest:
    """The spec of a pod with one container. A name server that is silent costs 1 s, not 10."""
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "dnsConfig": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "1"}]},
        "containers": [container],
        "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
        **more,
    }


def container(name: str, image: str, pull_policy: str, arguments: list[str], **more: Any) -> Manifest:
    """A container without rights and with a read-only root; `arguments` follow `python -m`."""
    mounts = [*more.pop("volumeMounts", []), {"name": "tmp", "mountPath": "/tmp"}]
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy,
        "args": arguments,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
        **more,
    }


def with_rights(spec: Manifest, profile: Profile) -> Manifest:
    """A pod that may do what its machines' fabric needs, because the administrator says so."""
    if profile.capabilities:
        (body,) = spec["containers"]
        rights = {**body["securityContext"]["capabilities"], "add": list(profile.capabilities)}
        spec["containers"] = [{**body, "securityContext": {**body["securityContext"], "capabilities": rights}}]
    if profile.host_network:
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if profile.runtime_class_name:
        spec["runtimeClassName"] = profile.runtime_class_name
    return spec


def storage_environment(secret: str | None) -> list[Manifest]:
    """The environment with which a program reaches object storage: five known keys of a Secret, nothing else of it."""
    fixed: list[Manifest] = [{"name": "AWS_EC2_METADATA_DISABLED", "value": "true"}] if secret else []
    named = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}} for key in _AWS
    ]
    return fixed + named if secret else []


def owned(kind: str, name: str, uid: str) -> Manifest:
    """The owner reference of a child: it goes with its owner."""
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
