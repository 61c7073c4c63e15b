"""Fixtures for every test: a real S3 (SeaweedFS) on loopback, started once a session when a test asks for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import settings

settings.register_profile("the same each time", derandomize=True)
settings.register_profile("exploring", print_blob=True)
settings.load_profile("exploring" if os.environ.get("TESSERA_EXPLORE") == "1" else "the same each time")

START_LIMIT_S = 60.0
STOP_LIMIT_S = 10.0
BUCKET = "tessera-tests"
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tessera",
    "AWS_SECRET_ACCESS_KEY": "tessera-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def pytest_configure() -> None:
    """A shell starts what it puts into the background deaf to Ctrl-C, and children inherit that: ours shall hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a SeaweedFS that lives as long as the session."""
    folder = tmp_path_factory.mktemp("seaweed")
    ports = dict(zip((*_PORTS, *(f"{port}.grpc" for port in _PORTS)), _free_ports(2 * len(_PORTS)), strict=True))
    command = [str(Path(sysconfig.get_path("scripts")) / "weed"), "server", f"-dir={folder}", "-s3"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-master.volumeSizeLimitMB=128", "-volume.max=32", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    with open(folder / "weed.log", "wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=os.environ | _ENVIRONMENT
        )
    try:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        _await(endpoint, server, folder / "weed.log")
        yield endpoint
    finally:
        server.kill()  # its data is the test's; a polite end takes it ten seconds
        server.wait(STOP_LIMIT_S)


@pytest.fixture
def s3_uri(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of its own in the real S3, with the environment that leads to it (child processes inherit it)."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["files", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's address: the test runs once on local files and once on S3."""
    if request.param == "files":
        return (tmp_path / "store").as_uri()
    uri: str = request.getfixturevalue("s3_uri")
    return uri


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is found, so that none comes twice."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _await(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the server takes an object: its parts find each other some time after it answers."""
    session = boto3.session.Session(_ENVIRONMENT["AWS_ACCESS_KEY_ID"], _ENVIRONMENT["AWS_SECRET_ACCESS_KEY"])
    client = session.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="started", Body=b"started")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
    pytest.fail(f"SeaweedFS did not answer within {START_LIMIT_S} s:\n{log.read_text()[-2000:]}")
