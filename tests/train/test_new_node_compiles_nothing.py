"""Compiled code on the real trainer: a node that is new to a run has the other nodes' before its first step, and its
compiler is never called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from lab import Lab
from workload import NAME, Workload, dataset

SECONDS = 300.0
COMPILER = "g++"
pytestmark = pytest.mark.timeout(900)


def watched_compiler(folder: Path) -> tuple[str, Path]:
    """A PATH on which the compiler tells of each call that compiles, and where it does."""
    real = shutil.which(COMPILER)
    assert real is not None
    folder.mkdir()
    calls, script = folder / "calls", folder / COMPILER
    script.write_text(f'#!/bin/sh\ncase "$*" in *.so*) echo "$*" >> {calls};; esac\nexec {real} "$@"\n')
    script.chmod(0o755)
    return os.pathsep.join((str(folder), os.environ["PATH"])), calls


def libraries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.so")}


def test_a_new_node_of_a_compiled_run_compiles_nothing(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", vocabulary=512)
    document = Workload("llama-1m", 100_000, 64, 4, 50, 2, 1, 2).manifest("compiled")
    document["spec"]["training"]["compile"] = "blocks"
    lab = Lab(tmp_path / "run", document, None, {"TORCHINDUCTOR_COMPILE_THREADS": "1"})
    lab.resolve({NAME: data})
    lab.coordinate()
    first, second = tmp_path / "first", tmp_path / "second"
    (first_path, first_calls), (second_path, second_calls) = (
        watched_compiler(tmp_path / "1"),
        watched_compiler(tmp_path / "2"),
    )
    try:
        lab.add_node("node-0", TESSERA_COMPILED_CODE=str(first), PATH=first_path)
        lab.wait_step(5, SECONDS)
        stored = lab.directory.root / "compiled"
        lab.wait_for("the code is stored", lambda: stored.exists() and any(stored.iterdir()), SECONDS)

        lab.add_node("node-1", TESSERA_COMPILED_CODE=str(second), PATH=second_path)
        lab.wait_for("both train", lambda: len(lab.members()) == 2, SECONDS)
        generation = int(lab.generation()["generation"])
        lab.wait_step(10, SECONDS, generation)
    finally:
        lab.close()

    assert first_calls.exists()
    assert not second_calls.exists(), second_calls.read_text()
    assert libraries(second) == libraries(first) != set()
    for name in ("node-0", "node-1"):
        assert "cold" not in lab.directory.agent_log(name).read_text(), "the warm process forks with a compiler in it"
