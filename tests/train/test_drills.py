"""Drills of a real local run: each fault is ordered as a user does, by `tessera drill`, and the promise is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from drills import disturbed, undisturbed

from tessera_api.drill import OF_OUR_TRAINER, OF_THE_API_SERVER, Fault
from tessera_api.exit_codes import ExitCode
from tests.train.local_place import environment, wait_for
from tests.train.test_local_run import Command, local

LIMIT = 200.0
STEPS = 100_000
SHORT = (Fault.WORKER_KILL, Fault.WORKER_EXCEPTION, Fault.LOCK_HOG, Fault.NODE_KILL, Fault.COORDINATOR_KILL)
"""Those that every `make test` does; `make drill` does the whole table."""

pytestmark = pytest.mark.timeout(600)


def drilled(command: Command, fault: str, *more: str) -> tuple[int, str]:
    """What `tessera drill` says."""
    words = [sys.executable, "-m", "tessera_cli", "drill", str(command.directory.root), "--fault", fault, *more]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": LIMIT}
    done = subprocess.run(words, env=environment(), check=False, **how)  # type: ignore[call-overload]
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A run that allows drills."""
    work = tmp_path_factory.mktemp("drills") / "work"
    with local(work, "drills=Allowed", "hangSeconds=5", steps=STEPS) as command:
        command.until_step(20)
        yield command


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(one.value, marks=[] if one in SHORT else [pytest.mark.long])
        for one in Fault
        if one not in OF_OUR_TRAINER | OF_THE_API_SERVER
    ],
)
def test_a_fault_is_recovered_from_as_promised(running: Command, fault: str) -> None:
    running.until_step(running.highest_step() + 15)
    wait_for(lambda: len(running.active_agents()) > 1, 60.0, "who suffered the last fault has others beside it again")

    code, said = drilled(running, fault, "--seconds", "5")

    assert (code, said.splitlines()[-1]) == (ExitCode.DONE, "kept"), said
    running.until_step(running.highest_step() + 15)

    def in_the_status() -> bool:
        shown = json.loads(running.directory.status.read_text())["drills"][-1]
        return (shown["fault"], shown["result"]) == (fault, "Kept")

    wait_for(in_the_status, 30.0, "the status tells it")


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_faults_that_only_our_trainer_knows_are_recovered_from_as_promised_and_cost_no_bit(tmp_path: Path) -> None:
    """But a loss spike, after which the run is another: test_loss_guard.py."""
    faults = tuple(fault for fault in Fault if fault in OF_OUR_TRAINER and fault is not Fault.LOSS_SPIKE)

    kept, _, hurt = disturbed(tmp_path, faults, 1)
    alone = undisturbed(tmp_path, max(hurt))

    assert kept == len(faults)
    assert [step for step, numbers in hurt.items() if numbers != alone.get(step)] == []


def test_a_fault_that_there_is_none_of_and_a_node_that_trains_not_are_refused(running: Command) -> None:
    assert "there is no fault 'earthquake': worker-kill," in drilled(running, "earthquake")[1]
    assert "api-away is a drill of runs on a cluster" in drilled(running, "api-away")[1]
    code, said = drilled(running, "worker-kill", "--node", "node-99")
    assert (code, "no drill was done within" in said) == (ExitCode.UNAVAILABLE, True)
    events = running.directory.events.read_text()
    assert "worker-kill is refused: node-99 does not train" in events


def test_a_run_that_allows_none_is_left_alone(tmp_path: Path) -> None:
    with local(tmp_path / "work", steps=STEPS) as command:
        command.until_step(5)

        code, said = drilled(command, "worker-kill")

        assert code == ExitCode.WRONG_INPUT
        assert "run tiny allows no drills: start it with --set drills=Allowed" in said
        assert not list(command.directory.incidents.glob("*.json"))
