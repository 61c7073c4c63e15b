"""The objects of a dataset build: its manifest and one Indexed Job, whose pods share the work through the output."""

from __future__ import annotations

from tessera_api.dataset_build import DatasetBuild
from tessera_api.exit_codes import ExitCode
from tessera_operator import names
from tessera_operator.manifests.pods import Manifest, container, owned, pod_spec, storage_environment
from tessera_operator.profiles import Settings

MANIFEST_FOLDER = "/etc/tessera"
WORK_FOLDER = "/run/tessera/build"
TRIES = 3
_FINAL = [int(ExitCode.WRONG_INPUT)]


def build_document(build: DatasetBuild, namespace: str, uid: str) -> Manifest:
    """The manifest, as the builder reads it; it never changes, as the spec never does."""
    document = build.model_dump_json(by_alias=True, exclude_none=True, exclude={"status"}, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(build, namespace, uid),
        "immutable": True,
        "data": {"build.json": document},
    }


def build_job(build: DatasetBuild, namespace: str, uid: str, settings: Settings) -> Manifest:
    """As many pods as the build asks for. One that is lost is made anew and goes on with what all have finished; a
    mistake of the user is not tried again; the first that has published ends the others."""
    file, result, workers = f"{MANIFEST_FOLDER}/build.json", "/dev/termination-log", build.spec.workers
    arguments = ["tessera_data", "build", file, "--work", WORK_FOLDER, "--result", result]
    arguments += ["--workers", str(workers), "--index", "$(JOB_COMPLETION_INDEX)"]
    arguments += ["--progress", f"0.0.0.0:{names.BUILD_PORT}"]
    secret = build.spec.output.secret_ref
    body = container(
        *("builder", settings.trainer_image, settings.pull_policy, arguments),
        ports=[{"name": "progress", "containerPort": names.BUILD_PORT}],
        env=storage_environment(secret.name if secret else None),
        resources=settings.build_resources,
        volumeMounts=[
            {"name": "manifest", "mountPath": MANIFEST_FOLDER, "readOnly": True},
            {"name": "work", "mountPath": WORK_FOLDER},
        ],
    )
    name = names.build_name(build.metadata.name)
    volumes: list[Manifest] = [
        {"name": "manifest", "configMap": {"name": name}},
        {"name": "work", "emptyDir": {}},
    ]
    labels = _metadata(build, namespace, uid)["labels"] | {names.ROLE_LABEL: names.BUILDER}
    user_error = {"action": "FailJob", "onExitCodes": {"containerName": "builder", "operator": "In", "values": _FINAL}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(build, namespace, uid),
        "spec": {
            "completionMode": "Indexed",
            "completions": workers,
            "parallelism": workers,
            "backoffLimitPerIndex": TRIES - 1,
            "successPolicy": {"rules": [{"succeededCount": 1}]},
            "podFailurePolicy": {"rules": [user_error]},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(body, volumes)},
        },
    }


def _metadata(build: DatasetBuild, namespace: str, uid: str) -> Manifest:
    name = build.metadata.name
    return {
        "name": names.build_name(name),
        "namespace": namespace,
        "labels": {names.BUILD_LABEL: name, "app.kubernetes.io/managed-by": "tessera"},
        "ownerReferences": [owned("DatasetBuild", name, uid)],
    }
