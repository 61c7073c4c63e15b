"""Whose log lies in a storage: the same run goes on there, another one is told what to change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.run_directory import RunDirectory
from tessera_coordinator.first_start import NAME, AnotherRun, be_the_same
from tessera_store import Store, open_store
from tests.unit.live_coordinator import KEY, LIMIT_S
from tests.unit.operator_world import RUN, a_run, a_start


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store((tmp_path / "storage").as_uri())
    be_the_same(store, a_start())
    return store


def changed(**spec: Any) -> Any:
    return a_start(a_run(**spec))


def test_a_later_start_and_a_run_that_was_applied_anew_go_on(store: Store) -> None:
    be_the_same(store, a_start().model_copy(update={"start": 2, "created": 5.0, "started": 6.0}))


@pytest.mark.parametrize(
    "spec",
    [
        {"nodes": {"count": 1, "min": 1, "max": 1}},
        {"checkpoint": {"every": 7}},
        {"storage": {"uri": "s3://models/runs", "secretRef": {"name": "other"}}},
    ],
    ids=["nodes", "checkpoint policy", "another name of the credentials"],
)
def test_what_does_not_decide_the_run_may_differ(store: Store, spec: dict[str, Any]) -> None:
    be_the_same(store, changed(**spec))


def test_a_run_that_was_asked_for_differently_is_refused_with_what_differs(store: Store) -> None:
    training = {**RUN["spec"]["training"], "seed": 8, "tokens": "200k"}

    with pytest.raises(AnotherRun) as refused:
        be_the_same(store, changed(training=training))

    assert "give this one another name or another storage.uri, or remove what is there" in str(refused.value)
    assert "spec.training.seed: 7 -> 8" in str(refused.value)
    assert "spec.training.tokens" in str(refused.value)


def test_other_data_of_the_same_name_is_refused(store: Store) -> None:
    start = a_start()
    other = start.datasets["stdlib"].model_copy(update={"fingerprint": "1" * 64})

    with pytest.raises(AnotherRun, match=f"dataset stdlib: fingerprint {'0' * 64} -> {'1' * 64}"):
        be_the_same(store, start.model_copy(update={"datasets": {"stdlib": other}}))


def test_a_document_that_is_no_runs_is_not_overwritten(tmp_path: Path) -> None:
    store = open_store((tmp_path / "storage").as_uri())
    store.put(NAME, b"{}")

    with pytest.raises(AnotherRun, match="is no run's start"):
        be_the_same(store, a_start())

    assert store.get(NAME) == b"{}"


def test_the_coordinator_ends_with_the_remedy_and_claims_nothing(store: Store, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    directory.key.write_bytes(KEY)
    resolved = changed(training={**RUN["spec"]["training"], "seed": 8})
    directory.run_json.write_bytes(resolved.model_copy(update={"storage": store.uri}).encode())
    command = [sys.executable, "-m", "tessera_coordinator", "--listen", "127.0.0.1:0"]

    ended = subprocess.run(
        [*command, "--run-directory", str(directory.root)], capture_output=True, text=True, timeout=LIMIT_S
    )

    assert ended.returncode == ExitCode.WRONG_INPUT
    assert "spec.training.seed: 7 -> 8" in ended.stderr.splitlines()[-1]
    assert [info.name for info in store.list("log/")] == []
