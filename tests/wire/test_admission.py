"""Who may say what is in a run's pods: the chart's ValidatingAdmissionPolicy, judged by a real API server."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.unit.operator_world import RUN as A_RUN
from tests.wire.test_chart import helm, rendered

__all__ = ["helm"]
TEAM = "judged"
RUNS = {"apiGroups": ["tessera.dev"], "resources": ["trainingruns"], "verbs": ["create", "get", "update", "patch"]}
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
TRAINER = {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["trainer"], "verbs": ["impersonate"]}
RIGHTS = {"writes-runs": [RUNS], "writes-pods": [RUNS, PODS], "is-trainer": [RUNS, PODS, TRAINER]}
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
IMAGE = {"image": "other:1"}
ACCOUNT = {"serviceAccountName": "trainer"}

Apply = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def policy(plane: ControlPlane, helm: Path) -> Iterator[None]:
    """The policy, in force; three users of one namespace with rights of their own."""
    plane.kubectl("create", "namespace", TEAM)
    for user, rules in RIGHTS.items():
        where = {"name": user, "namespace": TEAM}
        role: dict[str, Any] = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": where,
            "rules": rules,
        }
        binding: dict[str, Any] = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": where,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
        }
        for document in (role, binding):
            done = plane.apply(document)
            assert done.returncode == 0, done.stderr
    documents = [document for document in rendered(helm) if document["kind"] in POLICIES]
    for document in documents:
        done = plane.apply(document)
        assert done.returncode == 0, done.stderr
    limit = time.monotonic() + 60
    while write(plane, "writes-runs", IMAGE).returncode == 0:
        assert time.monotonic() < limit, "the policy is not in force"
        time.sleep(0.2)
    yield
    for document in documents:
        plane.kubectl("delete", document["kind"], document["metadata"]["name"])


def write(
    plane: ControlPlane, user: str, template: dict[str, Any] | None, dry: bool = True, **more: Any
) -> subprocess.CompletedProcess[str]:
    """What the server says to this user's run."""
    run = copy.deepcopy(A_RUN)
    run["metadata"] = {"name": "gpt", "namespace": TEAM}
    run["spec"] |= more | ({"podTemplate": template} if template is not None else {})
    options = ("--dry-run=server",) if dry else ()
    arguments = ("apply", "--server-side", "--force-conflicts", "--as", user, *options, "-f", "-")
    return plane.kubectl(*arguments, stdin=json.dumps(run))


@pytest.mark.parametrize(
    ("user", "template"),
    [("writes-runs", None), ("writes-pods", IMAGE), ("is-trainer", {**IMAGE, **ACCOUNT})],
    ids=["nothing asked", "who may create pods", "who may be the service account"],
)
@pytest.mark.usefixtures("policy")
def test_who_may_write_pods_may_say_what_is_in_a_runs_pods(
    plane: ControlPlane, user: str, template: dict[str, Any] | None
) -> None:
    done = write(plane, user, template)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("user", "template", "words"),
    [
        (
            "writes-runs",
            IMAGE,
            "spec.podTemplate says what is in pods, and writes-runs may not create pods in namespace judged",
        ),
        (
            "writes-pods",
            ACCOUNT,
            "spec.podTemplate.serviceAccountName is trainer, and writes-pods may not impersonate this ServiceAccount",
        ),
    ],
    ids=["no right to create pods", "no right to be the service account"],
)
@pytest.mark.usefixtures("policy")
def test_who_may_write_a_run_gains_nothing_over_who_may_write_a_pod(
    plane: ControlPlane, user: str, template: dict[str, Any], words: str
) -> None:
    done = write(plane, user, template)

    assert done.returncode != 0
    assert words in done.stderr
    assert "Forbidden" in done.stderr or "forbidden" in done.stderr


@pytest.mark.usefixtures("policy")
def test_what_another_has_said_of_the_pods_stays_and_may_not_be_changed(plane: ControlPlane) -> None:
    begun = write(plane, "is-trainer", IMAGE, dry=False)
    assert begun.returncode == 0, begun.stderr

    scaled = write(plane, "writes-runs", IMAGE, suspend=True)
    changed = write(plane, "writes-runs", {"image": "mine:1"})

    assert scaled.returncode == 0, scaled.stderr
    assert "may not create pods" in changed.stderr


@pytest.mark.parametrize(
    ("sets", "taken", "policies"),
    [
        ((), True, 2),
        (("podTemplates=trusted",), True, 0),
        (("podTemplates=refused",), False, 0),
        (("operator.namespaces={team}",), False, 0),
        (("operator.namespaces={team}", "podTemplates=trusted"), True, 0),
    ],
    ids=["checked", "trusted", "refused", "in namespaces nobody could check", "in namespaces of trust"],
)
def test_the_operator_takes_pod_templates_only_where_somebody_judges_or_trusts(
    helm: Path, sets: tuple[str, ...], taken: bool, policies: int
) -> None:
    documents = rendered(helm, *sets)
    (settings,) = [d["data"]["settings.yaml"] for d in documents if d["kind"] == "ConfigMap"]

    assert yaml.safe_load(settings)["podTemplates"] is taken
    assert sum(document["kind"] in POLICIES for document in documents) == policies
