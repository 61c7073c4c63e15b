"""What a run asks for its own pods is laid over what they need, and takes nothing of that away."""

from __future__ import annotations

from typing import Any

from tessera_operator.core.run_decision import decide
from tessera_operator.manifests.network import network_policy
from tessera_operator.manifests.run import Place, coordinator_pod, worker_pod
from tests.unit.operator_world import a_run, a_start, a_view, built
from tests.unit.test_operator_manifests import GPU, OWNER, SETTINGS

TEMPLATE: dict[str, Any] = {
    "image": "ours/trainer:7",
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "trainer",
    "labels": {"team": "nlp"},
    "annotations": {"a.example/note": "words"},
    "nodeSelector": {"zone": "a", "kind": "a100"},
    "tolerations": [{"key": "team", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "rack", "operator": "In", "values": ["1"]}]},
                    {"matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]},
                ]
            }
        }
    },
    "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "64Gi"}},
    "env": [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ],
    "envFrom": [{"prefix": "X_", "configMapRef": {"name": "more"}}],
    "volumes": [
        {"name": "run", "mountPath": "/data", "readOnly": True, "persistentVolumeClaim": {"claimName": "corpus"}},
        {"name": "scratch", "mountPath": "/scratch", "emptyDir": {"sizeLimit": "10Gi"}},
    ],
}
START = a_start(a_run(podTemplate=TEMPLATE))
WORKER = worker_pod(OWNER, START, SETTINGS, GPU, Place("n1", 3, ("host-9",)))
PLAIN = worker_pod(OWNER, a_start(), SETTINGS, GPU, Place("n1", 3))


def test_a_worker_has_what_its_run_asks_for() -> None:
    (container,) = WORKER["spec"]["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}

    assert container["image"] == "ours/trainer:7"
    assert container["resources"] == {
        "limits": {"nvidia.com/gpu": "8", "memory": "64Gi"},
        "requests": {"cpu": "4"},
    }
    assert environment["NCCL_DEBUG"]["value"] == "INFO", "the run's value, not the profile's"
    assert len(environment) == len(container["env"])
    assert environment["TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token", "optional": False}
    assert container["envFrom"] == [{"prefix": "X_", "configMapRef": {"name": "more", "optional": False}}]
    assert {"key": "team", "operator": "Exists", "effect": "NoSchedule"} in WORKER["spec"]["tolerations"]
    assert WORKER["spec"]["serviceAccountName"] == "trainer"
    assert WORKER["spec"]["automountServiceAccountToken"] is False


def test_the_administrators_choice_of_nodes_wins_over_the_runs() -> None:
    assert WORKER["spec"]["nodeSelector"] == {"zone": "a", "kind": "h100"}


def test_a_volume_of_the_run_meets_none_of_ours() -> None:
    names = [volume["name"] for volume in WORKER["spec"]["volumes"]]
    (container,) = WORKER["spec"]["containers"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}

    assert len(names) == len(set(names))
    assert {"own-run", "own-scratch"} <= set(names)
    assert mounted["/data"] == "own-run"
    assert mounted["/run/tessera/run"] == "run"


def test_each_of_the_runs_node_terms_keeps_off_the_nodes_that_it_avoids() -> None:
    affinity = WORKER["spec"]["affinity"]
    required = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    chosen = [[part["key"] for part in term["matchExpressions"]] for term in required["nodeSelectorTerms"]]

    assert chosen == [["rack", "kubernetes.io/hostname"], ["old", "kubernetes.io/hostname"]]
    assert affinity["podAntiAffinity"]


def test_all_pods_of_a_run_carry_its_labels_and_keep_tesseras_own() -> None:
    coordinator = coordinator_pod(OWNER, START, SETTINGS, "c0", 0)

    for pod in (WORKER, coordinator):
        assert pod["metadata"]["labels"]["team"] == "nlp"
        assert pod["metadata"]["labels"]["tessera.dev/run"] == "gpt"
        assert pod["metadata"]["annotations"]["a.example/note"] == "words"
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["spec"]["serviceAccountName"] == "trainer"
    assert WORKER["metadata"]["annotations"]["tessera.dev/avoids"] == "host-9"
    assert coordinator["spec"]["containers"][0]["image"] == "operator:1"


def test_a_run_that_asks_for_nothing_has_plain_pods() -> None:
    (container,) = PLAIN["spec"]["containers"]

    assert container["image"] == "trainer:1"
    assert container["resources"] == GPU.resources
    assert "envFrom" not in container
    assert not {"serviceAccountName", "imagePullSecrets"} & PLAIN["spec"].keys()


def test_where_nobody_judges_who_wrote_it_a_pod_template_is_refused() -> None:
    view = a_view(run=a_run(podTemplate=TEMPLATE), start=None, pods=(), answer=None, datasets={"stdlib": built()})

    blocked = decide(view).blocked

    assert blocked is not None
    assert blocked.reason == "PodTemplateRefused"
    assert "leave it out, or ask the administrator" in blocked.message


def test_a_runs_network_policy_lets_in_its_own_pods_the_operator_and_scrapers() -> None:
    spec = network_policy(OWNER, "tessera-system")["spec"]
    own, operator, scrapers = spec["ingress"]

    assert spec["podSelector"]["matchLabels"].items() <= WORKER["metadata"]["labels"].items()
    assert own["from"] == [{"podSelector": {"matchLabels": {"tessera.dev/run": "gpt"}}}]
    assert operator["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "tessera-system"}
    assert operator["ports"] == [{"protocol": "TCP", "port": 7400}]
    assert scrapers == {"ports": [{"protocol": "TCP", "port": 7401}]}
