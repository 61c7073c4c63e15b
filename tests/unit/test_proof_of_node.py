"""The node's proof: what a sound node shows, and how each defect is named."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tessera_trainer.proof import Check, ProofRequest, ProofResult, parse_result, prove, prove_json
from tessera_trainer.proof_checks import Multiply


def request(folder: Path, **changes: object) -> ProofRequest:
    sound = ProofRequest("cpu", (folder / "store").as_uri(), str(folder), world_size=4)
    return dataclasses.replace(sound, **changes)  # type: ignore[arg-type]


def failed(result: ProofResult) -> dict[str, str]:
    return {check.name: check.message for check in result.checks if not check.ok}


def test_a_sound_node_proves_itself_and_leaves_nothing_in_storage(tmp_path: Path) -> None:
    result = prove(request(tmp_path))
    assert (failed(result), result.ok, bool(result.fingerprint)) == ({}, True, True)
    assert [check.name for check in result.checks] == [
        "folders", "device events", "devices", "shared memory", "storage", "open files",
    ]  # fmt: skip
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_node_proves_itself_on_every_kind_of_storage(tmp_path: Path, store_uri: str) -> None:
    assert failed(prove(request(tmp_path, storage=store_uri))) == {}


def test_the_light_proof_touches_neither_devices_nor_storage(tmp_path: Path) -> None:
    result = prove(request(tmp_path, light=True))
    assert (result.ok, [check.name for check in result.checks], result.fingerprint) == (
        True, ["folders", "device events"], "",
    )  # fmt: skip
    assert not (tmp_path / "store").exists()


def off_by_one_in(dtype: torch.dtype) -> Multiply:
    def multiply(left: Tensor, right: Tensor) -> Tensor:
        product = left @ right
        if left.dtype is dtype:
            product[3, 5] += 1
        return product

    return multiply


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_that_multiplies_one_number_wrong_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    found = failed(prove(request(tmp_path), off_by_one_in(dtype)))
    assert found == {
        "devices": f"device cpu multiplied two {dtype} matrices to 1 wrong numbers of 262144; "
        "do not train on it: reset or replace the device"
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA devices")
def test_missing_devices_are_counted(tmp_path: Path) -> None:
    found = failed(prove(request(tmp_path, device="cuda", devices=8)))
    assert found["devices"].startswith("this node shows 0 CUDA devices, the run takes 8; check the device plugin")


def test_too_little_shared_memory_is_named_with_the_remedy(tmp_path: Path) -> None:
    found = failed(prove(request(tmp_path, shared_memory_bytes=1 << 60)))
    assert list(found) == ["shared memory"]
    assert found["shared memory"].endswith("docker: --shm-size)")


def test_shared_memory_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = failed(prove(request(tmp_path, shared_memory=str(tmp_path / "none"))))
    assert found["shared memory"].startswith(f"{tmp_path}/none cannot hold shared memory")


def test_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = failed(prove(request(tmp_path, storage=(tmp_path / "file" / "store").as_uri())))
    assert list(found) == ["storage"]
    assert found["storage"].endswith(
        "check spec.storage.uri, the credentials, and that they may read, write and delete"
    )


def test_storage_that_is_a_file_is_named_by_both_proofs(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    assert list(failed(prove(request(tmp_path, light=True)))) == ["folders"]
    assert list(failed(prove(request(tmp_path)))) == ["folders", "storage"]


def test_storage_that_stays_silent_costs_its_limit_and_is_named(tmp_path: Path, silent_storage: str) -> None:
    result = prove(request(tmp_path, storage=silent_storage, limit_s=5.0))
    assert failed(result) == {"storage": "gave no answer in 5 s"}


@pytest.fixture
def silent_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "tessera")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield "s3://bucket/run"


def test_a_missing_mount_is_named(tmp_path: Path) -> None:
    found = failed(prove(request(tmp_path, light=True, mounts=(str(tmp_path / "data"),))))
    assert found == {"folders": f"{tmp_path}/data: No such file or directory; is the volume mounted?"}


def test_too_low_a_limit_of_open_files_is_refused_and_an_enough_hard_one_is_raised_to(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from tessera_trainer.proof_checks import check_open_files, Unfit\n"
        "from tessera_trainer.proof import raise_open_files\n"
        "limit = raise_open_files(); print(limit, resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "for world in (30, 31):\n"
        "    try: print(check_open_files(limit, world))\n"
        "    except Unfit as unfit: print(unfit)\n"
    )
    command = ["bash", "-c", 'ulimit -Sn 100; ulimit -Hn 500; exec "$0" -c "$1"', sys.executable, program]
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert done.stdout.splitlines() == [
        "500 500",
        "500 open files, 496 needed",
        "a process may open 500 files, a run of 31 ranks needs 504 (256 + 8 a rank); raise the hard limit "
        "(ulimit -Hn, LimitNOFILE of the container runtime)",
    ], done.stderr


def test_a_result_survives_its_way_as_text(tmp_path: Path) -> None:
    text = prove_json({**request(tmp_path, light=True).to_json(), "said by a newer agent": 1})
    result = parse_result(text)
    assert (result.ok, [check.name for check in result.checks]) == (True, ["folders", "device events"])


def test_a_result_that_cannot_be_read_proves_nothing() -> None:
    result = parse_result("{}")
    assert result == ProofResult(False, (Check("proof", False, "its result cannot be read: KeyError('checks')", 0.0),))
