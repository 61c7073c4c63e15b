"""The supervisor with real processes and signals; coordinator and agents are stand-ins that do as files tell them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.run_directory import RunDirectory
from tessera_cli import directory_lock, run_commands
from tessera_cli.programs import Programs
from tessera_cli.supervisor import Limits, Outcome, Plan, Supervisor
from tests.train.local_place import STAND_INS, is_alive, node, resolved_run, run_directory, told

LIMIT = 20.0


@dataclass
class Stage:
    """A supervisor at work, and what a test can do to its processes."""

    directory: RunDirectory
    supervisor: Supervisor
    says: list[str] = field(default_factory=list)

    async def until(self, condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, f"not within {limit} s: {what}; said: {self.says}"
            await asyncio.sleep(0.01)

    async def nodes(self, *names: str) -> list[int]:
        """The agents' process ids, once all of them run."""
        await self.until(lambda: all(node(self.directory, name) for name in names), f"{names} run")
        return [self.agent(name) for name in names]

    def agent(self, name: str) -> int:
        return int((node(self.directory, name) or {"agent": 0})["agent"])

    def workers(self, name: str) -> list[int]:
        return list((node(self.directory, name) or {"workers": []})["workers"])

    async def coordinator(self) -> int:
        """Its process id, once it listens."""
        port = int(self.supervisor_address.rpartition(":")[2])

        def listens() -> bool:
            return any(
                f":{port:04X} 00000000:0000 0A" in line for line in Path("/proc/net/tcp").read_text().splitlines()
            )

        await self.until(listens, "the coordinator listens")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and is_alive(int(entry.name)):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if str(self.directory.root).encode() in words and b"--listen" in words:
                    return int(entry.name)
        raise AssertionError("no coordinator runs")

    @property
    def supervisor_address(self) -> str:
        return str(json.loads(self.directory.run_json.read_text())["coordinator"])

    def put(self, name: str, text: str) -> None:
        part = self.directory.root / f".{name}"
        part.write_text(text)
        part.replace(self.directory.root / name)


Story = Callable[[Stage], Awaitable[None]]


def drive(
    root: Path, story: Story, *sets: str, programs: Programs = STAND_INS, limits: Limits | None = None
) -> tuple[Outcome, Stage]:
    """Tell a story to a supervised run, then wait for its end."""
    resolved = resolved_run(root, *sets)
    directory, key = run_directory(root, resolved)

    async def main() -> tuple[Outcome, Stage]:
        says: list[str] = []
        plan = Plan(directory, resolved, key, programs, limits or Limits(terminate=1.0, farewell=5.0))
        supervisor = Supervisor(plan, says.append)
        stage = Stage(directory, supervisor, says)
        running = asyncio.create_task(supervisor.run())
        try:
            async with asyncio.timeout(LIMIT):
                await story(stage)
                return await running, stage
        finally:
            running.cancel()

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _programs_find_our_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def test_a_run_that_ends_leaves_no_process(tmp_path: Path) -> None:
    seen: list[int] = []

    async def story(stage: Stage) -> None:
        seen.extend(await stage.nodes("node-0", "node-1", "node-2"))
        seen.extend([pid for name in ("node-0", "node-1", "node-2") for pid in stage.workers(name)])
        seen.append(await stage.coordinator())
        stage.put("end", "0")

    outcome, _ = drive(tmp_path / "tiny", story)
    assert outcome.code is ExitCode.DONE
    assert [pid for pid in seen if is_alive(pid)] == []


def test_a_killed_node_is_reported_at_once_and_replaced_under_the_next_number(tmp_path: Path) -> None:
    signalled: list[float] = []

    async def story(stage: Stage) -> None:
        _, victim, _ = await stage.nodes("node-0", "node-1", "node-2")
        await stage.coordinator()
        await stage.until(
            (stage.directory.root / "greeted").exists, "the stream stands"
        )  # the latency is measured with it
        signalled.append(time.time())
        os.kill(victim, signal.SIGKILL)
        await stage.nodes("node-3")
        assert [(order["node"], order["agent_pid"], order["code"]) for order in told(stage.directory, "reaped")] == [
            ("node-1", victim, -signal.SIGKILL)
        ]
        stage.put("end", "0")

    _, stage = drive(tmp_path / "tiny", story)
    assert told(stage.directory, "reaped")[0]["at"] - signalled[0] < 0.25


def test_nothing_of_a_killed_node_lives_on(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        first, *_ = await stage.nodes("node-0", "node-1", "node-2")
        workers = stage.workers("node-0")
        os.kill(first, signal.SIGKILL)
        await stage.until(lambda: not any(is_alive(pid) for pid in workers), "the workers are ended", limit=2)
        assert all(is_alive(pid) for pid in stage.workers("node-1"))
        stage.put("end", "0")

    drive(tmp_path / "tiny", story)


def test_a_killed_coordinator_is_restarted_on_its_port_and_told_again(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        victim, *_ = await stage.nodes("node-0", "node-1", "node-2")
        coordinator = await stage.coordinator()
        os.kill(coordinator, signal.SIGKILL)
        await stage.until(lambda: not is_alive(coordinator), "it is dead")
        os.kill(victim, signal.SIGKILL)
        assert await stage.coordinator() != coordinator
        await stage.until(lambda: told(stage.directory, "reaped"), "the new one hears of the node that died meanwhile")
        assert told(stage.directory, "reaped")[0]["agent_pid"] == victim
        stage.put("end", "0")

    drive(tmp_path / "tiny", story)


def test_the_restart_of_a_coordinator_can_be_delayed(tmp_path: Path) -> None:
    killed: list[float] = []

    async def story(stage: Stage) -> None:
        coordinator = await stage.coordinator()
        killed.append(time.monotonic())
        os.kill(coordinator, signal.SIGKILL)
        await stage.until(lambda: not is_alive(coordinator), "it is dead")
        await stage.coordinator()
        killed.append(time.monotonic())
        stage.put("end", "0")

    drive(tmp_path / "tiny", story, limits=Limits(terminate=1.0, farewell=5.0, restart_delay=1.5))
    assert killed[1] - killed[0] >= 1.5


def test_a_living_node_that_is_no_longer_counted_is_supplemented_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.nodes("node-0", "node-1", "node-2")
        everybody = '{"status": {}, "active": ["node-0", "node-1"], "spare": ["node-2"]}'
        stage.put("answer.json", everybody)
        answered = stage.directory.root / "answered"
        await stage.until(lambda: answered.exists() and answered.read_text() == everybody, "all are counted")
        stage.put("answer.json", '{"status": {}, "active": ["node-1"], "spare": ["node-2"]}')
        await stage.nodes("node-3")
        assert is_alive(stage.agent("node-0"))
        assert node(stage.directory, "node-4") is None
        stage.put("end", "0")

    _, stage = drive(tmp_path / "tiny", story, limits=Limits(terminate=1.0, farewell=5.0, uncounted=1.0))
    assert [line for line in stage.says if "is not counted" in line] == [
        "node-0 lives, but is not counted for 1 s: another node is started beside it"
    ]


def test_an_unfit_node_is_tried_three_times_and_its_reason_told(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.put("exit-all", str(int(ExitCode.UNFIT)))

    outcome, stage = drive(tmp_path / "tiny", story, "nodes.count=1", "nodes.spares=0")
    assert outcome.code is ExitCode.TROUBLE
    assert [line.partition(":")[0] for line in stage.says if "has ended" in line] == [
        "node-0 has ended",
        "node-1 has ended",
        "node-2 has ended",
    ]
    assert "node-2 was told to exit (see " in outcome.reason


def test_ctrl_c_stops_the_run_through_the_coordinator(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.nodes("node-0", "node-1", "node-2")
        await stage.coordinator()
        stage.supervisor.interrupt()
        stage.put("stopped", "")

    outcome, stage = drive(tmp_path / "tiny", story)
    assert outcome.code is ExitCode.STOPPED
    assert [(order["reason"], order["deadline_seconds"]) for order in told(stage.directory, "stop-run")] == [
        ("interrupt", 60.0)
    ]


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    begun: list[float] = []
    pids: list[int] = []

    async def story(stage: Stage) -> None:
        pids.extend(await stage.nodes("node-0", "node-1", "node-2"))
        pids.extend(stage.workers("node-0"))
        pids.append(await stage.coordinator())
        stage.put("deaf", "")
        stage.supervisor.interrupt()
        await stage.until(lambda: told(stage.directory, "stop-run"), "the stop is ordered")
        begun.append(time.monotonic())
        stage.supervisor.interrupt()

    outcome, _ = drive(tmp_path / "tiny", story)
    assert outcome.code is ExitCode.STOPPED
    assert time.monotonic() - begun[0] < 2
    assert [pid for pid in pids if is_alive(pid)] == []


def test_a_stop_that_is_not_obeyed_ends_by_force(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.coordinator()
        stage.put("deaf", "")
        stage.supervisor.interrupt()

    outcome, stage = drive(tmp_path / "tiny", story, limits=Limits(stop=0.5, stop_grace=0.5, terminate=1.0))
    assert outcome.code is ExitCode.STOPPED
    assert stage.says[-1] == "the run did not stop in time; ending it by force: its last commit stands"


def test_a_coordinator_that_refuses_the_run_ends_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.put("end", str(int(ExitCode.WRONG_INPUT)))

    outcome, _ = drive(tmp_path / "tiny", story)
    assert outcome.code is ExitCode.WRONG_INPUT


def test_tessera_stop_stops_a_run_that_another_process_drives(tmp_path: Path) -> None:
    resolved = resolved_run(tmp_path / "tiny")
    directory, _ = run_directory(tmp_path / "tiny", resolved)
    command = STAND_INS.coordinator_of(directory.root, resolved.coordinator)
    with subprocess.Popen(command) as coordinator, directory_lock.hold(directory.lock, "the run"):
        try:
            assert run_commands.stop(directory.root) == "the stand-in is told to end"
            assert coordinator.wait(LIMIT) == ExitCode.STOPPED
        finally:
            coordinator.kill()
    assert [order["reason"] for order in told(directory, "stop-run")] == ["tessera stop"]
