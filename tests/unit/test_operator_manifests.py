"""The objects that the operator makes."""

from __future__ import annotations

from typing import Any

import pytest

from tessera_api.dataset_build import DatasetBuild
from tessera_operator import names
from tessera_operator.keys import control_key, run_key, run_keys
from tessera_operator.manifests.build import build_document, build_job
from tessera_operator.manifests.run import (
    Owner,
    Place,
    coordinator_pod,
    coordinator_service,
    key_secret,
    start_document,
    worker_pod,
)
from tessera_operator.profiles import Profile, Settings
from tests.unit.operator_world import a_run, a_start
from tests.unit.test_operator_builds import BUILD

OWNER = Owner("team", "gpt", "uid-1")
SETTINGS = Settings(trainer_image="trainer:1", operator_image="operator:1")
GPU = Profile.model_validate(
    {
        "device": "cuda",
        "resources": {"limits": {"nvidia.com/gpu": "8"}},
        "nodeSelector": {"kind": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "environment": {"NCCL_DEBUG": "WARN"},
        "sharedMemory": "64Gi",
    }
)
WORKER = worker_pod(OWNER, a_start(), SETTINGS, GPU, Place("n1", 3, ("host-9",)))
COORDINATOR = coordinator_pod(OWNER, a_start(), SETTINGS, "c0", 2)
BUILDER = build_job(DatasetBuild.parse(BUILD), "team", "uid-2", SETTINGS)["spec"]["template"]


@pytest.mark.parametrize("pod", [WORKER, COORDINATOR, BUILDER], ids=["worker", "coordinator", "builder"])
def test_every_pod_is_restricted(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    (container,) = spec["containers"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any(key in spec for key in ("hostNetwork", "hostPID", "hostIPC", "serviceAccountName"))
    assert all("hostPath" not in volume for volume in spec["volumes"])
    assert {"name": "timeout", "value": "1"} in spec["dnsConfig"]["options"]


def test_a_worker_is_what_its_profile_says() -> None:
    spec = WORKER["spec"]
    (container,) = spec["containers"]

    assert WORKER["metadata"]["name"] == "gpt-n1-3"
    assert WORKER["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    assert {"name": "NCCL_DEBUG", "value": "WARN"} in container["env"]
    assert spec["nodeSelector"] == {"kind": "h100"}
    memory = next(volume for volume in spec["volumes"] if volume["name"] == "memory")
    assert memory["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}
    affinity = spec["affinity"]
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["host-9"]
    assert affinity["podAntiAffinity"]


def test_a_pod_takes_five_known_keys_of_the_users_secret_and_nothing_else() -> None:
    environment = WORKER["spec"]["containers"][0]["env"]
    taken = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in environment if "valueFrom" in entry}

    assert set(taken) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
    }
    assert {reference["name"] for reference in taken.values()} == {"models-s3"}


def test_a_service_leads_to_the_coordinator_that_is_meant_and_to_no_other() -> None:
    selector = coordinator_service(OWNER, "c0", 2)["spec"]["selector"]

    assert selector.items() <= COORDINATOR["metadata"]["labels"].items()
    for slot, attempt in (("c0", 1), ("c1", 2)):
        other = coordinator_pod(OWNER, a_start(), SETTINGS, slot, attempt)
        assert not selector.items() <= other["metadata"]["labels"].items()
    assert not selector.items() <= WORKER["metadata"]["labels"].items()


@pytest.mark.parametrize(("slot", "peer"), [("c0", "c1"), ("c1", "c0")])
def test_each_coordinator_knows_the_other_and_every_node_both(slot: str, peer: str) -> None:
    (container,) = coordinator_pod(OWNER, a_start(), SETTINGS, slot, 3)["spec"]["containers"]
    arguments = container["args"]

    assert arguments[-8:] == [
        *("--name", f"gpt-{slot}-3", "--slot", slot),
        *("--peer", f"gpt-coordinator-{peer}.team.svc.cluster.local:7400"),
        *("--metrics", "0.0.0.0:7401"),
    ]
    told = WORKER["spec"]["containers"][0]["args"]
    assert told[told.index("--coordinator") + 1].count(":7400") == 2


def test_a_run_that_an_older_version_began_keeps_its_one_coordinator() -> None:
    older = a_start().model_copy(update={"coordinator": "gpt-coordinator-c0.team.svc.cluster.local:7400"})
    (container,) = coordinator_pod(OWNER, older, SETTINGS, "c0", 1)["spec"]["containers"]

    assert container["args"][-4:] == ["--listen", "0.0.0.0:7400", "--metrics", "0.0.0.0:7401"]


def test_a_profile_says_what_the_machines_fabric_needs_of_the_nodes_alone() -> None:
    fabric = Profile.model_validate(
        {
            "hostNetwork": True,
            "capabilities": ["IPC_LOCK"],
            "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma-0"},
            "runtimeClassName": "nvidia",
            "cacheVolume": {"hostPath": {"path": "/var/cache/tessera", "type": "Directory"}},
        }
    )
    pod = worker_pod(OWNER, a_start(), SETTINGS, fabric, Place("n1", 3, ("host-9",)))
    spec = pod["spec"]

    assert (spec["hostNetwork"], spec["dnsPolicy"], spec["runtimeClassName"]) == (
        *(True, "ClusterFirstWithHostNet"),
        "nvidia",
    )
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert pod["metadata"]["annotations"] == {
        "k8s.v1.cni.cncf.io/networks": "rdma-0",
        "tessera.dev/avoids": "host-9",
    }
    (cache,) = [volume for volume in spec["volumes"] if volume["name"] == "cache"]
    assert cache == {"name": "cache", "hostPath": {"path": "/var/cache/tessera", "type": "Directory"}}
    settings = SETTINGS.model_copy(update={"profiles": {"fabric": fabric}})
    assert "hostNetwork" not in coordinator_pod(OWNER, a_start(), settings, "c1", 0)["spec"]


def test_a_node_that_rests_is_the_last_that_a_pod_is_placed_on_and_a_lost_one_is_never() -> None:
    pod = worker_pod(OWNER, a_start(), SETTINGS, Profile(), Place("n1", 3, ("dead",), ("bad-1", "bad-2")))
    affinity = pod["spec"]["affinity"]["nodeAffinity"]

    def keeps_off(expressions: list[dict[str, Any]]) -> list[str]:
        (one,) = expressions
        assert (one["key"], one["operator"]) == ("kubernetes.io/hostname", "NotIn")
        values: list[str] = one["values"]
        return values

    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (wish,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert keeps_off(term["matchExpressions"]) == ["dead"]
    assert keeps_off(wish["preference"]["matchExpressions"]) == ["bad-1", "bad-2"]


def test_coordinators_stay_apart_and_off_the_nodes_that_train_where_they_can() -> None:
    settings = SETTINGS.model_copy(update={"profiles": {"h100": GPU}})
    affinity = coordinator_pod(OWNER, a_start(), settings, "c1", 0)["spec"]["affinity"]

    (apart,) = affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert apart["podAffinityTerm"]["labelSelector"]["matchLabels"] == {
        "tessera.dev/run": "gpt",
        "tessera.dev/role": "coordinator",
    }
    (off,) = affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert off["preference"]["matchExpressions"] == [{"key": "kind", "operator": "NotIn", "values": ["h100"]}]


def test_coordinators_mount_all_of_a_key_and_nodes_what_lets_them_join() -> None:
    start = a_start(first_key=3)

    def files(pod: dict[str, Any]) -> dict[str, tuple[list[str], bool]]:
        (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "keys"]
        secrets = [source["secret"] for source in volume["projected"]["sources"]]
        return {one["name"]: ([item["path"] for item in one["items"]], one["optional"]) for one in secrets}

    coordinator = files(coordinator_pod(OWNER, start, SETTINGS, "c0", 0))
    worker = files(worker_pod(OWNER, start, SETTINGS, Profile(), Place("n0", 0)))

    first, *later = coordinator
    assert first == names.keys_name("gpt", OWNER.uid, 3)
    assert coordinator[first] == (["3/key", "3/control", "3/tls.crt", "3/tls.key"], False)
    assert worker[first] == (["3/key", "3/tls.crt"], False)
    assert later == [names.keys_name("gpt", OWNER.uid, number) for number in (4, 5, 6, 7)]
    assert all(optional for _, optional in (worker[name] for name in later))
    data = key_secret(OWNER, run_keys(b"s" * 32, OWNER.uid, 3))
    assert (data["metadata"]["name"], set(data["data"])) == (first, {"key", "control", "tls.crt", "tls.key"})


def test_a_start_of_an_older_version_has_one_key_and_perhaps_a_control_key() -> None:

    def keys(pod: dict[str, Any]) -> dict[str, Any]:
        return {volume["name"]: volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume}

    control = keys(COORDINATOR)["control"]
    assert (control["items"], control["optional"]) == ([{"key": "control", "path": "key"}], True)
    assert {name: secret["items"] for name, secret in keys(WORKER).items()} == {"key": [{"key": "key", "path": "key"}]}
    mounts = {mount["name"]: mount["mountPath"] for mount in COORDINATOR["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["control"] == "/run/tessera/run/control"


def test_what_never_changes_is_immutable() -> None:
    document = build_document(DatasetBuild.parse(BUILD), "team", "uid-2")

    assert start_document(OWNER, a_start())["immutable"] is True
    assert key_secret(OWNER, run_keys(b"s" * 32, "uid-1", 1))["immutable"] is True
    assert document["immutable"] is True


def test_a_mistake_of_the_user_is_not_tried_again_by_the_job() -> None:
    job = build_job(DatasetBuild.parse(BUILD), "team", "uid-2", SETTINGS)

    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [64]


def test_a_build_is_an_indexed_job_that_ends_with_the_first_pod_that_has_published() -> None:
    several = {**BUILD, "spec": {**BUILD["spec"], "workers": 3}}
    spec = build_job(DatasetBuild.parse(several), "team", "uid-2", SETTINGS)["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    arguments = container["args"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimitPerIndex"] == 2
    assert spec["successPolicy"] == {"rules": [{"succeededCount": 1}]}
    assert arguments[arguments.index("--workers") + 1] == "3"
    assert arguments[arguments.index("--index") + 1] == "$(JOB_COMPLETION_INDEX)"


def test_each_run_has_a_key_of_its_own_that_can_be_made_again() -> None:
    secret = b"s" * 32

    assert run_key(secret, "a") == run_key(secret, "a")
    assert len({run_key(secret, "a"), run_key(secret, "b"), run_key(b"t" * 32, "a")}) == 3
    assert len(run_key(secret, "a")) == 32
    assert control_key(secret, "a") not in (run_key(secret, "a"), control_key(secret, "b"))


def test_the_longest_names_fit_kubernetes() -> None:
    longest = "x" * 40

    for name in (
        names.pod_name(longest, "n4351", 99_999),
        names.coordinator_service(longest, "c0"),
        names.secret_name(longest, "0" * 36),
        names.keys_name(longest, "0" * 36, 999_999),
        names.build_name(longest),
    ):
        assert len(name) <= 63


def test_all_pods_of_a_run_have_its_priority() -> None:
    urgent = a_start(a_run(priorityClassName="urgent"))

    pods = (
        worker_pod(OWNER, urgent, SETTINGS, GPU, Place("n1", 0)),
        coordinator_pod(OWNER, urgent, SETTINGS, "c0", 0),
    )

    assert [pod["spec"]["priorityClassName"] for pod in pods] == ["urgent", "urgent"]
    assert "priorityClassName" not in WORKER["spec"]
