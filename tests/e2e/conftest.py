"""A real cluster with Tessera installed by Helm, for the stories: made once a session, removed at its end."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import Cluster, down, unavailable, up
from tests.cluster.control import S3_URL, S3_USER
from tests.e2e.installation import Installation

CHART = Path(__file__).parents[2] / "charts" / "tessera"
NAMESPACE = "team"
BUCKET = "models"
ON_WORKERS = {
    "nodeSelector": {"tessera.dev/accelerator": "cpu"},
    "tolerations": [{"key": "tessera.dev/accelerator", "operator": "Exists"}],
}


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
    small = {"requests": {"cpu": "100m", "memory": "512Mi"}}
    values = {
        "image": {"operator": cluster.image("operator"), "trainer": cluster.image("trainer")},
        "profiles": {"cpu": {"device": "cpu", "threads": 1, "resources": small, "sharedMemory": "256Mi", **ON_WORKERS}},
        "build": {"resources": small},
    }
    file = tmp_path_factory.mktemp("helm") / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    where = ("--namespace", "tessera-system", "--create-namespace", "--wait", "--timeout", "180s")
    cluster.helm("upgrade", "--install", "tessera", str(CHART), *where, "--values", str(file))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "models-s3", "namespace": NAMESPACE},
        "stringData": {**S3_USER, "AWS_ENDPOINT_URL": S3_URL},
    }
    cluster.kubectl("create", "namespace", NAMESPACE, check=False)
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
    cluster.python("import boto3, sys; boto3.client('s3').create_bucket(Bucket=sys.argv[1])", BUCKET)
    return Installation(cluster, NAMESPACE)
