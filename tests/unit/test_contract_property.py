"""What holds for every sound resource, whatever its fields are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_api.difference import difference
from tessera_api.manifest import ManifestErrors, Resource, parse_manifests
from tessera_api.training_run import TrainingRun
from tests.wire.contract_strategies import dataset_builds, training_runs

RESOURCES = training_runs() | dataset_builds()
CALM = settings(max_examples=30, deadline=None)


def parsed(document: dict[str, Any]) -> Resource:
    """The one resource of a raw document."""
    [resource] = parse_manifests(json.dumps(document))
    return resource


def written(resource: Resource) -> dict[str, Any]:
    """A resource as it would be written to a file."""
    return resource.model_dump(mode="json", by_alias=True, exclude_none=True)


@CALM
@given(RESOURCES)
def test_a_sound_resource_is_the_same_after_being_written_and_read(document: dict[str, Any]) -> None:
    resource = parsed(document)

    assert parsed(written(resource)) == resource


@CALM
@given(RESOURCES)
def test_a_resource_does_not_differ_from_its_respelled_self(document: dict[str, Any]) -> None:
    resource = parsed(document)

    assert difference(resource.spec, parsed(written(resource)).spec) == []


@CALM
@given(training_runs())
def test_a_sound_run_has_a_step_after_its_warm_up_and_a_unit_for_every_process(document: dict[str, Any]) -> None:
    run = parsed(document)

    assert isinstance(run, TrainingRun)
    assert run.spec.total_steps > run.spec.training.schedule.warmup_steps
    assert run.spec.nodes.max * run.spec.nodes.processes_per_node <= run.spec.training.units


@CALM
@given(RESOURCES, st.data())
def test_taking_out_a_required_field_is_one_mistake_and_no_crash(document: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(document["spec"].keys() - {"checkpoint", "heldOut"})))
    del document["spec"][field]

    with pytest.raises(ManifestErrors, match=rf"spec\.{field}: Required value"):
        parsed(document)
