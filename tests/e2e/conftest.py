"""A real cluster with Tessera installed by Helm, for the stories: made once a session, removed at its end."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, down, unavailable, up
from tests.e2e.installation import Installation, install


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes: one for control pods, three workers."""
    reason = unavailable()
    if reason and os.environ.get("TESSERA_REQUIRE_CLUSTER") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    if os.environ.get("TESSERA_KEEP_CLUSTER") != "1":
        down()  # what a killed session left
    yield up()
    if os.environ.get("TESSERA_KEEP_CLUSTER") != "1":
        down()


@pytest.fixture(scope="session")
def installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """`helm install`, a namespace with the credentials of an object store, and a bucket."""
    return install(cluster, tmp_path_factory.mktemp("helm"))
