"""A run's processes on this machine, with handles to hurt them: real coordinator, real torchrun agents, real signals.

Used by the recovery tests and benchmarks. Owns a run directory and every process it started; `close` leaves none
behind. It plays the supervisor's part (`tessera local` is tested for itself): it tells the coordinator which process
it has reaped, if `reports` is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tessera_api.drill import Drill, Fault
from tessera_api.keys import Keys
from tessera_api.messages import Hello, Role
from tessera_api.orders import Reaped, StopRun
from tessera_api.recipes import RECIPES
from tessera_api.resolved_run import Device, ResolvedDataset, ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.training_run import TrainingRun
from tessera_api.wire import Side
from tessera_cli.child import start_process


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def manifest(name: str, **nodes: int) -> dict[str, Any]:
    """A TrainingRun for tests; `nodes` as in its spec."""
    count = nodes.get("count", 3)
    return {
        "apiVersion": "tessera.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": {
            "method": "pretrain",
            "model": {"recipe": "llama-1m"},
            "data": {"sequenceLength": 64, "mix": [{"dataset": "tiny", "weight": "1"}]},
            "training": {
                "tokens": "1M",
                "seed": 7,
                "globalBatch": 8,
                "unit": 1,
                "learningRate": "1e-3",
                "schedule": {"kind": "cosine", "warmupSteps": 5},
            },
            "nodes": {"count": count, "min": nodes.get("min", 1), "max": nodes.get("max", max(4, count))},
            "checkpoint": {"every": 10, "keep": 3},
            "storage": {"uri": "file:///unused"},
        },
    }


class Lab:
    """See the module."""

    def __init__(self, root: Path, document: dict[str, Any], program: Path | None, environment: dict[str, str]) -> None:
        self.directory = RunDirectory(root)
        root.mkdir(parents=True, exist_ok=True)
        self.directory.logs.mkdir(exist_ok=True)
        self.port = free_port()
        self._program = program
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
        self._start = 0
        self._document = document
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.coordinators: list[subprocess.Popen[bytes]] = []
        self.reports = True
        self._reapers: list[threading.Thread] = []
        if not self.directory.key.exists():
            self.directory.key.write_bytes(secrets.token_bytes(32))
            self.directory.key.chmod(0o600)

    # ---- starting -------------------------------------------------------------------------------------------------

    def resolve(self, datasets: dict[str, ResolvedDataset] | None = None) -> None:
        """Write run.json for a new start."""
        self._start += 1
        run = TrainingRun.model_validate(self._document)
        recipe = run.spec.model.recipe
        assert recipe is not None
        unknown = ResolvedDataset(
            manifest="file:///none",
            sha256="0" * 64,
            fingerprint="none",
            tokenizer_sha256="0" * 64,
            vocabulary=1,
            tokens=1,
        )
        resolved = ResolvedRun(
            start=self._start,
            started=time.time(),
            created=time.time(),
            asked=run,
            run=run,
            recipe=RECIPES[recipe],
            datasets=datasets or {"tiny": unknown},
            storage=self.directory.root.as_uri(),
            device=Device.CPU,
            threads=1,
            coordinator=f"127.0.0.1:{self.port}",
        )
        self.directory.run_json.write_bytes(resolved.encode())

    def coordinate(self, port: int | None = None) -> subprocess.Popen[bytes]:
        """Start a coordinator."""
        arguments = ["--run-directory", str(self.directory.root), "--listen", f"127.0.0.1:{port or self.port}"]
        command = [sys.executable, "-m", "tessera_coordinator", *arguments]
        process = start_process(command, self._environment, self.directory.coordinator_log)
        self.coordinators.append(process)
        return process

    def add_node(self, name: str, endpoints: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start an agent."""
        arguments = ["--run-directory", str(self.directory.root), "--node", name]
        arguments += ["--coordinator", endpoints or f"127.0.0.1:{self.port}"]
        if self._program is not None:
            arguments += ["--program", str(self._program)]
        command = [sys.executable, "-m", "tessera_trainer.agent", *arguments]
        process = start_process(command, {**self._environment, **environment}, self.directory.agent_log(name))
        self.nodes[name] = process
        reaper = threading.Thread(target=self._reap, args=(name, process), daemon=True)
        reaper.start()
        self._reapers.append(reaper)
        return process

    def _reap(self, name: str, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if self.reports:
            with suppress(OSError, TimeoutError, StreamClosed):
                asyncio.run(self._tell(Reaped(node=name, agent_pid=process.pid, code=code)))

    async def _tell(self, message: Reaped | StopRun | Drill) -> None:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            stream = await MessageStream.begin(reader, writer, Keys(self.directory.key.read_bytes()), Side.CLIENT, 5)
            stream.send(Hello(role=Role.CONTROLLER, node="lab", incarnation="lab"))
            stream.send(message, sequence=1)
            for _ in ("welcome", "ack"):
                await stream.receive(5)
            stream.close()

    def stop(self, reason: str = "test", deadline: float = 30.0) -> None:
        """Order the run to stop."""
        asyncio.run(self._tell(StopRun(reason=reason, deadline_seconds=deadline)))

    def drill(self, fault: Fault) -> None:
        """Order a fault, of the node of rank 0 (the run must allow it)."""
        asyncio.run(self._tell(Drill(identity=secrets.token_hex(4), fault=fault)))

    # ---- looking ---------------------------------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        """The lines of events.jsonl."""
        return _lines(self.directory.events)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return _lines(self.directory.metrics)

    def wait_for(self, what: str, probe: Callable[[], Any], seconds: float = 60.0) -> Any:
        """What the probe returns once it is true. Raises TimeoutError with the newest events."""
        deadline = time.monotonic() + seconds
        while not (found := probe()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come in {seconds:.0f} s; events: {self.events()[-8:]}")
            time.sleep(0.02)
        return found

    def event(self, name: str, since: float = 0.0, node: str | None = None) -> dict[str, Any] | None:
        """The first such event after `since` (Unix seconds)."""
        for event in self.events():
            if event["name"] == name and event["time"] >= since and node in (None, event.get("node")):
                return event
        return None

    def wait_event(
        self, name: str, since: float = 0.0, node: str | None = None, seconds: float = 60.0
    ) -> dict[str, Any]:
        """Wait for such an event."""
        found: dict[str, Any] = self.wait_for(f"event {name}", lambda: self.event(name, since, node), seconds)
        return found

    def wait_step(self, step: int, seconds: float = 60.0, generation: int = 0) -> dict[str, Any]:
        """Wait until a step at least as high was completed, in a generation at least as high."""

        def probe() -> dict[str, Any] | None:
            fitting = (m for m in self.metrics() if m["step"] >= step and m["generation"] >= generation)
            return next(fitting, None)

        found: dict[str, Any] = self.wait_for(f"step {step} of generation {generation}", probe, seconds)
        return found

    def generation(self) -> dict[str, Any]:
        """The newest `open` entry."""
        entries = [json.loads(path.read_text()) for path in sorted((self.directory.root / "log").glob("0*"))]
        found: dict[str, Any] = [entry for entry in entries if entry["kind"] == "open"][-1]
        return found

    def members(self) -> list[str]:
        """The nodes of the newest generation, in order of rank."""
        return [member["node"] for member in self.generation()["members"]]

    def processes(self, name: str) -> list[int]:
        """Every process of a node, from the sessions that nodes.json names and from its agent's descendants."""
        sessions = set(json.loads(self.directory.nodes.read_text()).get(name, {}).get("sessions", []))
        in_sessions = {pid for pid, (_, session) in _process_table().items() if session in sessions}
        return sorted(members_of_tree(self.nodes[name].pid) | in_sessions)

    def trainers(self, name: str) -> list[int]:
        """The trainers that a node has now: the forks of its warm process. (nodes.json is up to a second old.)"""
        table = _process_table()
        children = {pid for pid, (parent, _) in table.items() if parent == self.nodes[name].pid}
        return sorted(pid for pid, (parent, _) in table.items() if parent in children)

    # ---- hurting ---------------------------------------------------------------------------------------------

    def signal_node(self, name: str, number: int = signal.SIGKILL) -> float:
        """The signal to every process of a node, the agent first; returns the Unix time of the first."""
        pids = self.processes(name)
        began = time.time()
        for pid in [self.nodes[name].pid, *pids]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return began

    def kill_all(self) -> None:
        """SIGKILL to everything at one instant, as far as there is one; the run may be started again."""
        self.close()
        self.nodes.clear()
        self.coordinators.clear()
        self.reports = True

    def close(self) -> None:
        """End everything."""
        self.reports = False
        started = [process.pid for process in (*self.nodes.values(), *self.coordinators)]
        for pid in members_of_tree(*started):
            for number in (signal.SIGKILL, signal.SIGCONT):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    break
        for process in (*self.nodes.values(), *self.coordinators):
            process.wait(timeout=20)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _process_table() -> dict[int, tuple[int, int]]:
    """pid -> (parent, session)."""
    table: dict[int, tuple[int, int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                table[int(entry)] = (int(fields[1]), int(fields[3]))
    return table


def members_of_tree(*roots: int) -> set[int]:
    """These processes and all that descend from them."""
    table = _process_table()
    found, level = set(roots), set(roots)
    while level:
        level = {pid for pid, (parent, _) in table.items() if parent in level} - found
        found |= level
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return pid in _process_table()
