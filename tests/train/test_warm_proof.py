"""The node's proof in a fork of its warm process, and what it is without one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera_trainer.proof import ProofRequest
from tests.train.warm_node import WarmNode, until

PROOF_LIMIT_S = 3.0
LIGHT_LIMIT_S = 0.05


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmNode]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        patch.setenv("OMP_NUM_THREADS", "1")
        node = WarmNode(tmp_path_factory.mktemp("node"), ("torch",)).start()
        yield node
        node.close()


def request(folder: Path, light: bool = False) -> ProofRequest:
    return ProofRequest("cpu", (folder / "store").as_uri(), str(folder), world_size=4, light=light)


def test_a_node_proves_itself_in_a_fork_within_its_time(node: WarmNode, tmp_path: Path) -> None:
    began = time.monotonic()
    result = node.warm.prove(request(tmp_path), 10.0)
    took = time.monotonic() - began
    assert (result.ok, result.failures) == (True, "")
    assert took < PROOF_LIMIT_S


def test_the_light_proof_takes_milliseconds(node: WarmNode, tmp_path: Path) -> None:
    def quick() -> bool:
        began = time.monotonic()
        return node.warm.prove(request(tmp_path, light=True), 10.0).ok and time.monotonic() - began < LIGHT_LIMIT_S

    assert until(quick, 5.0)  # a busy machine may hold one up, not all


def test_a_node_that_fails_a_check_says_which(node: WarmNode, tmp_path: Path) -> None:
    result = node.warm.prove(request(tmp_path / "gone"), 10.0)
    assert (result.ok, result.failures) == (
        False,
        f"folders: {tmp_path}/gone: No such file or directory; is the volume mounted?",
    )


def test_trainers_run_on_while_the_node_proves_itself(node: WarmNode, tmp_path: Path) -> None:
    trainer = node.run(node.program("print('going', flush=True); print(input())"))
    assert trainer.line() == "going"
    result = node.warm.prove(request(tmp_path), 10.0)
    assert (result.ok, trainer.ended(told="on\n")) == (True, (0, "on\n", ""))


def test_a_proof_that_takes_too_long_is_ended_and_proves_nothing(node: WarmNode, tmp_path: Path) -> None:
    result = node.warm.prove(request(tmp_path), 0.0)
    assert (result.ok, [check.name for check in result.checks]) == (False, ["proof"])
    assert result.failures.startswith(f"proof: its process ended with {-signal.SIGKILL} before its result")


def test_a_node_without_a_warm_process_proves_itself_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    result = WarmNode(tmp_path).warm.prove(request(tmp_path), 60.0)
    assert (result.ok, result.failures) == (True, "")
