"""`tessera local` from outside: real coordinator, real torchrun agents, a tiny training program, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.run_directory import RunDirectory
from tests.train.local_place import BUILD, PROGRAMS, RUN, environment, is_alive, wait_for

START_LIMIT = 240.0
END_LIMIT = 180.0
AT_ONCE = 10.0
"""Seconds on a machine that others use too; by itself it takes less than one."""

pytestmark = pytest.mark.timeout(600)  # each test starts torch in four processes, once or twice


@dataclass
class Command:
    """A `tessera local` that runs."""

    process: subprocess.Popen[str]
    directory: RunDirectory

    def highest_step(self) -> int:
        if not self.directory.metrics.exists():
            return -1
        lines = self.directory.metrics.read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=-1)

    def until_step(self, step: int) -> None:
        def there() -> bool:
            assert self.process.poll() is None, f"it ended too soon: {self.finish()}"
            return self.highest_step() >= step

        wait_for(there, START_LIMIT, f"step {step} is done")

    def active_agents(self) -> list[int]:
        nodes = json.loads(self.directory.nodes.read_text())
        return [node["agentPid"] for node in nodes.values() if node["role"] == "active"]

    def finish(self) -> tuple[int, str]:
        """Its exit code and what it printed."""
        out, _ = self.process.communicate(timeout=END_LIMIT)
        return self.process.returncode, out


@contextmanager
def local(workdir: Path, *sets: str, steps: int = 60) -> Iterator[Command]:
    """Start the command; it is ended at the latest when the test is."""
    manifest = workdir / "manifest.yaml"
    workdir.mkdir(exist_ok=True)
    manifest.write_text(f"{BUILD}---{RUN}")
    words = [sys.executable, str(PROGRAMS / "tiny_local.py"), str(workdir), str(manifest), *_tiny(steps), *sets]
    settings = {"TINY_STEPS": str(steps), "TINY_STEP_SECONDS": "0.05", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment() | settings
    )
    try:
        yield Command(process, RunDirectory(workdir / "runs" / "tiny"))
    finally:
        process.kill()
        process.wait()


def _tiny(steps: int) -> list[str]:
    return [f"training.tokens={steps * 6 * 32}", "checkpoint.every=10"]


def processes_of(directory: RunDirectory) -> list[int]:
    """Everything that has the run's directory in its command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and is_alive(int(entry.name)):
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(directory.root).encode() in text:
                found.append(int(entry.name))
    return found


def test_a_run_outlives_a_killed_node_and_tells_of_it(tmp_path: Path) -> None:
    with local(tmp_path / "work", steps=150) as command:
        command.until_step(20)
        os.kill(command.active_agents()[0], signal.SIGKILL)
        code, out = command.finish()
        assert (code, command.highest_step()) == (ExitCode.DONE, 150), out
        assert "run tiny is complete: all 150 steps are done" in out
        assert "incident 1: node-" in out
        assert processes_of(command.directory) == []
        assert '<tr id="incident-1">' in command.directory.report.read_text()


def test_ctrl_c_commits_and_the_same_command_resumes_to_the_end(tmp_path: Path) -> None:
    with local(tmp_path / "work") as command:
        command.until_step(15)
        command.process.send_signal(signal.SIGINT)
        code, out = command.finish()
        assert code == ExitCode.STOPPED, out
        assert "run tiny is stopped: stopped at step" in out
        assert "to go on from the last checkpoint: the same command" in out
        reached = command.highest_step()
    with local(tmp_path / "work") as command:
        code, out = command.finish()
        assert (code, command.highest_step()) == (ExitCode.DONE, 60), out
        steps = [json.loads(line)["step"] for line in command.directory.metrics.read_text().splitlines()]
        assert steps == list(range(1, 61)), f"stopped at {reached}"
        starts = [
            json.loads((command.directory.root / name).read_text())["start"] for name in ("run-1.json", "run.json")
        ]
        assert starts == [1, 2]
    with local(tmp_path / "work") as command:
        code, out = command.finish()
        assert code == ExitCode.DONE
        assert "run tiny is finished (all 60 steps are done): nothing to do" in out


def test_a_second_start_on_a_live_directory_is_refused_and_a_killed_command_leaves_no_process(tmp_path: Path) -> None:
    with local(tmp_path / "work", steps=2000) as command:
        command.until_step(5)
        with local(tmp_path / "work", steps=2000) as second:
            code, out = second.finish()
        assert code == ExitCode.IN_USE
        assert f"run tiny is being driven by process {command.process.pid}" in out
        command.process.kill()
        command.process.wait()
        wait_for(lambda: not processes_of(command.directory), 5, "every process of the run is gone")


def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path: Path) -> None:
    with local(tmp_path / "work", steps=2000) as command:
        command.until_step(5)
        begun = time.monotonic()
        command.process.send_signal(signal.SIGTERM)
        command.process.send_signal(signal.SIGINT)
        code, out = command.finish()
        assert code == ExitCode.STOPPED, out
        assert time.monotonic() - begun < AT_ONCE
        assert processes_of(command.directory) == []


def test_ctrl_c_ends_a_build_and_says_how_to_go_on(tmp_path: Path) -> None:
    build = tmp_path / "work" / "builds" / "words"
    build.mkdir(parents=True)
    (build / "hang").touch()
    with local(tmp_path / "work") as command:
        wait_for((build / "hanging").exists, START_LIMIT, "the build waits")
        command.process.send_signal(signal.SIGINT)
        code, out = command.finish()
        assert code == ExitCode.STOPPED
        assert out.splitlines()[-1] == "stopped while the datasets were built; to go on: the same command"
        assert processes_of(command.directory) == []
