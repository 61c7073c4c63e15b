"""Every rule and bound of the contract, as the local loader enforces it (tests/wire asks the API server the same)."""

from __future__ import annotations

import json

import pytest

from tessera_api.manifest import ManifestErrors, parse_manifests
from tests.wire import dataset_build_cases, training_run_cases
from tests.wire.contract_cases import Case

CASES = training_run_cases.KNOWN + training_run_cases.UNKNOWN + dataset_build_cases.KNOWN + dataset_build_cases.UNKNOWN


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_wrong_manifest_is_refused_with_path_and_words(case: Case) -> None:
    with pytest.raises(ManifestErrors) as refused:
        parse_manifests(json.dumps(case.wrong))

    assert [(mistake.path, mistake.problem) for mistake in refused.value.mistakes] == [(case.path, case.words)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_its_sound_neighbour_is_accepted(case: Case) -> None:
    [resource] = parse_manifests(json.dumps(case.sound))

    assert resource.kind == case.manifest["kind"]
