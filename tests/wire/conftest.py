"""Fixtures of the tests that talk to a genuine kube-apiserver, started once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config

from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.go_programs import Programs, cached_programs, missing

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def programs() -> Programs:
    """The compiled programs; compiling takes minutes, so that a test run asks for it instead of doing it."""
    found = cached_programs()
    if lacking := missing(found.control_plane()):
        names = ", ".join(lacking)
        reason = f"{names} not compiled yet: run `python tests/cluster/go_programs.py` once (needs Go)"
        if os.environ.get("TESSERA_REQUIRE_CLUSTER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def plane(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that knows both resources."""
    with control_plane(programs, tmp_path_factory.mktemp("plane")) as running:
        for file in sorted(CRDS.glob("*.yaml")):
            applied = running.apply(yaml.safe_load(file.read_text(encoding="utf-8")))
            assert applied.returncode == 0, applied.stderr
        yield running


@pytest.fixture(scope="session")
def api(plane: ControlPlane) -> Iterator[client.CustomObjectsApi]:
    """The official client, for resources of ours; they are there once their definitions are established."""
    with config.new_client_from_config(str(plane.kubeconfig)) as connection:
        waited = plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        assert waited.returncode == 0, waited.stderr
        yield client.CustomObjectsApi(connection)
