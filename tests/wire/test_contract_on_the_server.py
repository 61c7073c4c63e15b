"""The contract as a genuine kube-apiserver enforces it, and in the same words as the local loader."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given, settings
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tessera_api.dataset_build import DatasetBuildSpec
from tessera_api.manifest import ManifestErrors, parse_manifests
from tessera_api.resource import GROUP, VERSION
from tessera_api.training_run import TrainingRunSpec
from tests.cluster.control_plane import ControlPlane
from tests.wire import dataset_build_cases, training_run_cases
from tests.wire.contract_cases import DATASET_BUILD, PLURALS, TRAINING_RUN, Case, edited
from tests.wire.contract_strategies import dataset_builds, training_runs

KNOWN = training_run_cases.KNOWN + dataset_build_cases.KNOWN
UNKNOWN = training_run_cases.UNKNOWN + dataset_build_cases.UNKNOWN
FROZEN_FIELDS = training_run_cases.FROZEN_FIELDS + dataset_build_cases.FROZEN_FIELDS
DEFAULTS = ((TRAINING_RUN, training_run_cases.DEFAULTS), (DATASET_BUILD, dataset_build_cases.DEFAULTS))

Answer = dict[str, Any]


def create(api: client.CustomObjectsApi, manifest: Mapping[str, Any], dry: bool = True) -> Answer:
    """Create a resource with strict field validation; by default the server only says what it would do."""
    dry_run = "All" if dry else None
    plural = PLURALS[manifest["kind"]]
    answer = api.create_namespaced_custom_object(
        GROUP, VERSION, "default", plural, dict(manifest), dry_run=dry_run, field_validation="Strict"
    )
    return cast(Answer, answer)


def refusals(api: client.CustomObjectsApi, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the server has against a manifest: (path, message) of each cause."""
    with pytest.raises(ApiException) as refused:
        create(api, manifest)
    status = json.loads(refused.value.body or "{}")
    causes = status.get("details", {}).get("causes")
    if not causes:
        return [("", status["message"])]
    return [(cause.get("field", ""), cause["message"]) for cause in causes]


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.id)
def test_the_server_refuses_a_wrong_manifest_in_the_same_words(api: client.CustomObjectsApi, case: Case) -> None:
    causes = refusals(api, case.wrong)

    assert [path for path, message in causes if case.words in message] == [case.path], causes


@pytest.mark.parametrize("case", training_run_cases.RULES + dataset_build_cases.RULES, ids=lambda case: case.id)
def test_the_server_says_what_to_do_about_a_broken_rule(api: client.CustomObjectsApi, case: Case) -> None:
    with pytest.raises(ManifestErrors) as refused:
        parse_manifests(json.dumps(case.wrong))
    [mistake] = refused.value.mistakes

    [(path, message)] = [cause for cause in refusals(api, case.wrong) if case.words in cause[1]]

    assert path == mistake.path
    assert message.endswith(f"{mistake.problem}; {mistake.remedy}")


@pytest.mark.parametrize("case", UNKNOWN, ids=lambda case: case.id)
def test_the_server_refuses_an_unknown_field_in_the_same_words(api: client.CustomObjectsApi, case: Case) -> None:
    [(_, message)] = refusals(api, case.wrong)

    assert message.endswith(f"strict decoding error: {case.words}")


@pytest.mark.parametrize("case", KNOWN + UNKNOWN, ids=lambda case: case.id)
def test_the_server_accepts_the_sound_neighbour(api: client.CustomObjectsApi, case: Case) -> None:
    answer = create(api, case.sound)

    assert answer["kind"] == case.manifest["kind"]


@settings(max_examples=40, deadline=None)
@given(document=training_runs() | dataset_builds())
def test_the_server_accepts_what_the_models_accept_as_written_and_as_dumped(
    api: client.CustomObjectsApi, document: dict[str, Any]
) -> None:
    [resource] = parse_manifests(json.dumps(document))

    as_written = create(api, document)
    as_dumped = create(api, resource.model_dump(mode="json", by_alias=True, exclude_none=True))

    assert [spec_of(as_written), spec_of(as_dumped)] == [resource.spec, resource.spec]


@pytest.mark.parametrize(("manifest", "field", "value"), FROZEN_FIELDS, ids=[field for _, field, _ in FROZEN_FIELDS])
def test_the_server_refuses_a_change_of_a_frozen_field(
    api: client.CustomObjectsApi, manifest: dict[str, Any], field: str, value: Any
) -> None:
    created = create(api, edited(manifest, {"metadata.name": f"t-{uuid.uuid4().hex[:8]}"}), dry=False)
    changed = edited(created, {f"spec.{field}": value})

    with pytest.raises(ApiException) as refused:
        replace(api, changed)

    [cause] = json.loads(refused.value.body or "{}")["details"]["causes"]
    assert (cause["field"], cause["reason"]) == (f"spec.{field}", "FieldValueForbidden")
    assert f"{field} is frozen once the resource exists" in cause["message"]


def test_the_server_takes_a_change_of_nodes_and_checkpoint_policy(api: client.CustomObjectsApi) -> None:
    created = create(api, edited(TRAINING_RUN, {"metadata.name": "elastic"}), dry=False)
    changed = edited(created, {"spec.nodes.count": 3, "spec.checkpoint": {"every": 50, "keep": 2}})

    answer = replace(api, changed)

    assert answer["spec"] == changed["spec"]


@pytest.mark.parametrize(("manifest", "defaults"), DEFAULTS, ids=("TrainingRun", "DatasetBuild"))
def test_the_server_fills_in_the_defaults_that_the_models_have(
    api: client.CustomObjectsApi, manifest: dict[str, Any], defaults: dict[str, Any]
) -> None:
    answer = create(api, manifest)

    [filled_in_here], [filled_in_there] = (
        parse_manifests(json.dumps(manifest)),
        parse_manifests(json.dumps(answer)),
    )
    assert answer["spec"] == edited(manifest, defaults)["spec"]
    assert filled_in_there.spec == filled_in_here.spec


def test_kubectl_shows_the_columns_of_a_run(plane: ControlPlane, api: client.CustomObjectsApi) -> None:
    name = create(api, edited(TRAINING_RUN, {"metadata.name": "shown"}), dry=False)["metadata"]["name"]
    status = {
        "phase": "Running",
        "step": "4200/20000",
        "loss": "2.913",
        "tokensPerSecond": "1.9M",
        "mfu": "0.52",
        "nodes": "4/4",
        "activeNodes": 4,
        "restarts": 1,
        "goodput": "0.973",
        "eta": "3h12m",
    }
    api.patch_namespaced_custom_object_status(GROUP, VERSION, "default", "trainingruns", name, {"status": status})

    header, row = plane.kubectl("get", "trun", name).stdout.splitlines()

    titles = ["NAME", "PHASE", "STEP", "LOSS", "TOK/S", "MFU", "NODES", "RESTARTS", "GOODPUT", "ETA", "AGE"]
    assert header.split() == titles
    assert row.split()[:-1] == ["shown", "Running", "4200/20000", "2.913", "1.9M", "0.52", "4/4", "1", "0.973", "3h12m"]


def test_kubectl_explains_a_field(plane: ControlPlane, api: client.CustomObjectsApi) -> None:
    explained = plane.kubectl("explain", "trainingrun.spec.nodes.spares").stdout

    assert "Nodes that stand ready to take the place of a lost one." in explained


def test_kubectl_lists_both_kinds_by_their_category(plane: ControlPlane, api: client.CustomObjectsApi) -> None:
    for manifest in (TRAINING_RUN, DATASET_BUILD):
        create(api, edited(manifest, {"metadata.name": "listed"}), dry=False)

    names = plane.kubectl("get", "tessera", "-o", "name").stdout.splitlines()

    assert {"trainingrun.tessera.dev/listed", "datasetbuild.tessera.dev/listed"} <= set(names)


def test_kubectl_scales_a_run_within_its_rules(plane: ControlPlane, api: client.CustomObjectsApi) -> None:
    create(api, edited(TRAINING_RUN, {"metadata.name": "scaled"}), dry=False)

    taken = plane.kubectl("scale", "trun/scaled", "--replicas=3")
    refused = plane.kubectl("scale", "trun/scaled", "--replicas=5")

    assert taken.returncode == 0, taken.stderr
    assert "count 5 is above max 4" in refused.stderr


def spec_of(answer: Answer) -> TrainingRunSpec | DatasetBuildSpec:
    """The spec in the server's answer, as the models read it."""
    [resource] = parse_manifests(json.dumps(answer))
    return resource.spec


def replace(api: client.CustomObjectsApi, manifest: dict[str, Any]) -> Answer:
    """Put a changed resource in the place of the old one."""
    plural, name = PLURALS[manifest["kind"]], manifest["metadata"]["name"]
    return cast(Answer, api.replace_namespaced_custom_object(GROUP, VERSION, "default", plural, name, manifest))
