"""The chart: rendered by the genuine Helm, judged by a real API server, and by what it may not contain."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.aio import client, config

from tessera_operator.cluster import GROUPS, KUEUE, Cluster
from tessera_operator.core.machine_signs import KNOWN, MachineSign, Place
from tessera_operator.installation_check import check
from tessera_operator.manifests.gang import pod_group
from tessera_operator.manifests.run import Owner, coordinator_pod
from tessera_operator.profiles import Gang, Settings
from tests.cluster.control_plane import ControlPlane
from tests.cluster.go_programs import Programs, missing
from tests.unit.operator_world import a_run, a_start

CHART = Path(__file__).parents[2] / "charts" / "tessera"
LIMIT_SECONDS = 60.0
IMAGES = {"trainerImage": "trainer:1", "operatorImage": "operator:1"}


@pytest.fixture(scope="session")
def helm(programs: Programs) -> Path:
    """The compiled Helm."""
    if missing([programs.helm]):
        reason = "helm is not compiled yet: run scripts/setup_cluster.sh"
        if os.environ.get("TESSERA_REQUIRE_CLUSTER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return programs.helm


def run_helm(helm: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(helm), *arguments], input=stdin, text=True, capture_output=True, timeout=LIMIT_SECONDS)


def rendered(
    helm: Path, *sets: str, values: dict[str, Any] | None = None, version: str = "1.35.0"
) -> list[dict[str, Any]]:
    options = [word for value in sets for word in ("--set", value)]
    where = ("--namespace", "tessera-system", "--kube-version", version, "--values", "-")
    done = run_helm(helm, "template", "tessera", str(CHART), *where, *options, stdin=yaml.safe_dump(values or {}))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def test_helm_finds_nothing_wrong_with_it(helm: Path) -> None:
    done = run_helm(helm, "lint", "--strict", str(CHART))

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("operator.replica=1", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("profiles.cpu.device=tpu", "device"),
        ("profiles.H100.device=cuda", "H100"),
        ("crds.enabled=maybe", "enabled"),
        ("podTemplates=always", "podTemplates"),
        ("gang.kind=slurm", "kind"),
        ("machineSigns[0].place=annotation,machineSigns[0].name=a", "place"),
        ("profiles.cpu.pricePerHour=-1", "pricePerHour"),
        ("gang.kind=kueue,operator.namespaces={team}", "reads ResourceFlavors, which are the cluster's"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Path, change: str, words: str) -> None:
    done = run_helm(helm, "template", "tessera", str(CHART), "--kube-version", "1.35.0", "--set", change)

    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize("gang", ["none", "kueue", "volcano", "coscheduling", "native"])
def test_the_api_server_takes_everything_that_is_rendered(helm: Path, plane: ControlPlane, gang: str) -> None:
    plane.kubectl("create", "namespace", "tessera-system")
    for document in rendered(helm, "crds.enabled=false", "networkPolicies=true", f"gang.kind={gang}"):
        place = {**document["metadata"], "namespace": document["metadata"].get("namespace", "tessera-system")}
        done = plane.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
            stdin=yaml.safe_dump({**document, "metadata": place}),
        )
        assert done.returncode == 0, (document["kind"], done.stderr)


def test_the_definitions_stay_when_the_chart_goes(helm: Path) -> None:
    documents = [document for document in rendered(helm) if document["kind"] == "CustomResourceDefinition"]

    assert {document["spec"]["names"]["kind"] for document in documents} == {"TrainingRun", "DatasetBuild"}
    assert all(document["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for document in documents)
    assert one(rendered(helm, "crds.enabled=false"), "Deployment")
    (one_of, _) = [d for d in rendered(helm, "crds.keep=false") if d["kind"] == "CustomResourceDefinition"]
    assert "helm.sh/resource-policy" not in one_of["metadata"]["annotations"]


def test_the_operators_settings_are_those_that_it_reads(helm: Path) -> None:
    documents = rendered(helm, "image.trainer=images.example/trainer:2", "profiles.h100.device=cuda")

    settings = Settings.model_validate(yaml.safe_load(one(documents, "ConfigMap")["data"]["settings.yaml"]))

    assert settings.trainer_image == "images.example/trainer:2"
    assert {name: profile.device.value for name, profile in settings.profiles.items()} == {"cpu": "cpu", "h100": "cuda"}


def test_signs_and_prices_of_the_administrators_own_reach_the_operator(helm: Path) -> None:
    sign = "machineSigns[0].place=taint,machineSigns[0].name=example.com/bad,machineSigns[0].sick=true"
    documents = rendered(helm, sign, "profiles.h100.device=cuda,profiles.h100.pricePerHour=2.5")
    settings = Settings.model_validate(yaml.safe_load(one(documents, "ConfigMap")["data"]["settings.yaml"]))

    own = MachineSign(place=Place.TAINT, name="example.com/bad", sick=True)
    assert settings.signs == (*KNOWN, own)
    assert settings.profiles["h100"].node_price(8) == 20.0
    assert settings.profiles["cpu"].node_price(2) is None


def test_the_operator_may_not_read_secrets_nor_pass_on_rights_nor_enter_pods(helm: Path) -> None:
    roles = [document for document in rendered(helm) if document["kind"] in ("ClusterRole", "Role")]
    rules = [rule for role in roles for rule in role["rules"]]

    for rule in rules:
        assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
        assert not any("/" in resource and resource.startswith("pods/") for resource in rule["resources"])
        if "secrets" in rule["resources"]:
            assert rule["verbs"] == ["create"]


@pytest.mark.parametrize("gang", ["kueue", "volcano", "coscheduling", "native"])
def test_the_operator_may_make_the_groups_of_the_gang_that_it_is_told(helm: Path, gang: str) -> None:
    def made(kind: str) -> set[tuple[str, str]]:
        documents = [d for d in rendered(helm, f"gang.kind={kind}") if d["kind"] == "ClusterRole"]
        (role,) = [d for d in documents if d["metadata"]["name"] == "tessera-operator"]
        rules = [rule for rule in role["rules"] if "create" in rule["verbs"]]
        return {(group, resource) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]}

    group = pod_group(Owner("team", "gpt", "uid"), a_run(), 1, Gang(gang))
    version, plural = (group["apiVersion"], GROUPS[group["apiVersion"]]) if group else (KUEUE, "workloads")

    assert made(gang) - made("none") == {(version.split("/")[0], plural)}


def test_helm_test_has_the_server_judge_a_build_and_a_run(plane: ControlPlane) -> None:
    async def story(namespace: str) -> list[str]:
        await config.load_kube_config(str(plane.kubeconfig))
        cluster = Cluster(client.ApiClient())
        try:
            return await check(cluster, namespace)
        finally:
            await cluster.close()

    plane.kubectl("create", "namespace", "judging")
    assert asyncio.run(story("judging")) == []
    kept = plane.kubectl("get", "trainingruns,datasetbuilds", "--namespace", "judging", "-o", "name")
    assert kept.stdout == ""
    wrong = asyncio.run(story("nowhere"))
    assert [line.split(":")[0] for line in wrong] == [
        "a right DatasetBuild is refused",
        "a right TrainingRun is refused",
    ]


def test_the_operators_pod_is_restricted_and_of_several_one_may_be_evicted(helm: Path) -> None:
    documents = rendered(helm)
    spec = one(documents, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert one(documents, "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    assert not [d for d in rendered(helm, "operator.replicas=1") if d["kind"] == "PodDisruptionBudget"]


def test_the_administrator_says_more_of_the_operators_pod(helm: Path) -> None:
    sets = [
        *("imagePullSecrets[0].name=registry", "operator.priorityClassName=system-cluster-critical"),
        *("operator.podLabels.team=ml", "operator.podLabels.app\\.kubernetes\\.io/name=other"),
        *("operator.extraEnv[0].name=HTTPS_PROXY", "operator.extraEnv[0].value=http://proxy:3128"),
    ]
    template = one(rendered(helm, *sets), "Deployment")["spec"]["template"]

    spec, labels = template["spec"], template["metadata"]["labels"]
    assert (spec["imagePullSecrets"], spec["priorityClassName"]) == ([{"name": "registry"}], "system-cluster-critical")
    assert (labels["team"], labels["app.kubernetes.io/name"]) == ("ml", "tessera")
    assert spec["containers"][0]["env"] == [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]


def test_the_operators_pod_takes_what_a_cluster_asks_for(helm: Path, tmp_path: Path) -> None:
    more = {
        "extraArgs": ["--verbose"],
        "extraEnvFrom": [{"configMapRef": {"name": "proxies"}}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/more"}],
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
        "revisionHistoryLimit": 1,
        "terminationGracePeriodSeconds": 20,
    }
    deployment = one(rendered(helm, values={"operator": more}), "Deployment")["spec"]
    spec = deployment["template"]["spec"]
    (container,) = spec["containers"]

    assert (deployment["revisionHistoryLimit"], spec["terminationGracePeriodSeconds"]) == (1, 20)
    assert spec["topologySpreadConstraints"] == more["topologySpreadConstraints"]
    assert (container["args"][-1], container["envFrom"]) == ("--verbose", more["extraEnvFrom"])
    assert spec["volumes"][-1] == {"name": "ca", "configMap": {"name": "ca"}}
    assert container["volumeMounts"][-1] == {"name": "ca", "mountPath": "/etc/ssl/more"}
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"


def test_everything_can_have_another_name_other_labels_and_another_registry(helm: Path) -> None:
    values = {"fullnameOverride": "llm", "commonLabels": {"team": "ml"}, "global": {"imageRegistry": "mirror.example/"}}
    documents = rendered(helm, "networkPolicies=true", "monitoring.podMonitors=true", values=values)
    own = [document for document in documents if document["kind"] != "CustomResourceDefinition"]

    assert {document["metadata"]["name"].split("-")[0] for document in own} == {"llm"}
    assert all(document["metadata"]["labels"]["team"] == "ml" for document in own)
    assert all(document["metadata"]["labels"]["app.kubernetes.io/instance"] == "tessera" for document in own)
    (settings,) = [document for document in own if document["kind"] == "ConfigMap"]
    pod = one(own, "Deployment")["spec"]["template"]
    assert pod["metadata"]["labels"]["team"] == "ml"
    assert pod["spec"]["containers"][0]["image"] == "mirror.example/tessera/operator:0.1.0"
    assert yaml.safe_load(settings["data"]["settings.yaml"])["trainerImage"] == "mirror.example/tessera/trainer:0.1.0"


def test_further_objects_are_rendered_with_it(helm: Path) -> None:
    extra = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "{{ .Release.Name }}-limits"}}

    assert one(rendered(helm, values={"extraObjects": [extra]}), "LimitRange")["metadata"]["name"] == "tessera-limits"


@pytest.mark.parametrize("version", ["1.32.0", "1.33.4", "1.34.1", "1.35.0", "1.36.0", "1.37.0"])
def test_it_is_rendered_for_every_kubernetes_that_it_names(helm: Path, version: str) -> None:
    assert len(rendered(helm, version=version)) == len(rendered(helm))


def test_an_older_kubernetes_is_refused(helm: Path) -> None:
    done = run_helm(helm, "template", "tessera", str(CHART), "--kube-version", "1.31.9")

    assert done.returncode != 0
    assert "1.32" in done.stderr


@pytest.mark.parametrize(
    ("role", "verb", "what", "allowed"),
    [
        ("view", "list", "trainingruns.tessera.dev", "yes"),
        ("view", "create", "trainingruns.tessera.dev", "no"),
        ("edit", "create", "datasetbuilds.tessera.dev", "yes"),
        ("edit", "patch", "trainingruns.tessera.dev/scale", "yes"),
        ("edit", "patch", "trainingruns.tessera.dev/status", "no"),
    ],
)
def test_who_may_view_or_edit_a_namespace_may_do_so_with_runs(
    helm: Path, plane: ControlPlane, role: str, verb: str, what: str, allowed: str
) -> None:
    (document,) = [d for d in rendered(helm) if d["metadata"]["name"] == f"tessera-{role}"]
    assert document["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{role}"] == "true"
    assert plane.apply(document).returncode == 0
    plane.kubectl("create", "namespace", "people")
    binding = (f"{role}s", f"--clusterrole=tessera-{role}", f"--user={role}er", "--namespace=people")
    plane.kubectl("create", "rolebinding", *binding)

    resource, _, sub = what.partition("/")
    question = ("auth", "can-i", verb, resource, *((f"--subresource={sub}",) if sub else ()))
    asked = plane.kubectl(*question, "--namespace=people", f"--as={role}er")

    assert asked.stdout.strip() == allowed, asked.stderr


def test_monitoring_is_left_out_unless_it_is_asked_for(helm: Path) -> None:
    kinds = {"PodMonitor", "PrometheusRule"}
    asked = rendered(helm, "monitoring.podMonitors=true", "monitoring.rules=true", "monitoring.dashboard=true")

    assert not [document for document in rendered(helm) if document["kind"] in kinds]
    assert sorted(d["kind"] for d in asked if d["kind"] in kinds) == ["PodMonitor", "PodMonitor", "PrometheusRule"]
    assert one(asked, "PrometheusRule")["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    (board,) = [d for d in asked if d["metadata"]["name"] == "tessera-dashboard"]
    assert json.loads(board["data"]["tessera.json"])["uid"] == "tessera-run"


def test_single_alerts_are_changed_or_left_out(helm: Path) -> None:
    change = {"TesseraGoodputLow": {"enabled": False}, "TesseraStorageAway": {"for": "5m", "labels": {"team": "ml"}}}
    values = {"monitoring": {"rules": True, "alerts": change, "runbookUrl": "https://runbooks.example/tessera"}}
    groups = one(rendered(helm, values=values), "PrometheusRule")["spec"]["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    shipped = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]

    assert {rule["alert"] for group in shipped for rule in group["rules"]} - set(rules) == {"TesseraGoodputLow"}
    away = rules["TesseraStorageAway"]
    assert (away["for"], away["labels"]) == ("5m", {"severity": "critical", "team": "ml"})
    assert away["annotations"]["runbook_url"] == "https://runbooks.example/tessera#tesserastorageaway"


def test_the_pod_monitors_find_the_ports_that_the_pods_have(helm: Path) -> None:
    asked = rendered(helm, "monitoring.podMonitors=true")
    monitors = {d["metadata"]["name"]: d["spec"] for d in asked if d["kind"] == "PodMonitor"}
    operator = one(asked, "Deployment")["spec"]["template"]
    coordinator = coordinator_pod(Owner("team", "gpt", "uid"), a_start(), Settings.model_validate(IMAGES), "c0", 0)

    for name, pod in (("tessera-operator", operator), ("tessera-coordinators", coordinator)):
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert monitors[name]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert {endpoint["port"] for endpoint in monitors[name]["podMetricsEndpoints"]} <= ports
