"""A stage for hurting a run: three nodes and a spare that train the workload, made whole again between tries.

Owns how the times of an episode are taken. t0 is the signal; detected is the coordinator's event; the next step is
the first optimizer step completed in a newer generation, less the median duration of one undisturbed step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from lab import Lab, alive
from workload import NAME, Workload, dataset

START_SECONDS = 300.0
STEP_SECONDS = 180.0
SPARES = 1


class NotShown(AssertionError):
    """What the figure promises did not happen; the message says what did."""


@dataclass(frozen=True)
class Episode:
    """Seconds since the signal; the one step's duration is not yet subtracted."""

    detected: float
    opened: float
    next_step: float
    passed: float
    """When the highest earlier step was passed."""
    step_seconds: float
    """The median step of the generation before."""

    @property
    def gap(self) -> float:
        """Signal to next step, without the step itself."""
        return max(0.0, self.next_step - self.step_seconds)


class Stage:
    """A run on the workload. Use it in a `with`: no process is left behind, and no checkpoint. `standby` is the port
    at which agents look for a coordinator that does not answer at the first."""

    def __init__(
        self,
        work: Path,
        name: str,
        workload: Workload,
        environment: dict[str, str] | None = None,
        standby: int | None = None,
        program: Path | None = None,
    ) -> None:
        self.workload = workload
        data = dataset(work / "data")
        root = work / f"{name}-{os.getpid()}"
        self.lab = Lab(root, workload.manifest(name), program, environment or {})
        self.lab.resolve({NAME: data})
        self._endpoints = ",".join(f"127.0.0.1:{port}" for port in (self.lab.port, standby) if port)
        self._next = 0

    def __enter__(self) -> Self:
        self.lab.coordinate()
        for _ in range(self.workload.count + SPARES):
            self.add_node()
        try:
            self.settle()
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.lab.close()
        shutil.rmtree(self.lab.directory.root / "checkpoints", ignore_errors=True)

    def add_node(self, **environment: str) -> str:
        """A new node, as a supervisor would start it for one that is gone."""
        name = f"node-{self._next}"
        self._next += 1
        self.lab.add_node(name, self._endpoints, **environment)
        return name

    # ---- looking ---------------------------------------------------------------------------------------------

    def roles(self) -> dict[str, str]:
        """What each living node is for."""
        if not self.lab.directory.nodes.exists():
            return {}
        return {name: node["role"] for name, node in json.loads(self.lab.directory.nodes.read_text()).items()}

    def trainers(self, name: str) -> list[int]:
        """The trainers' process ids."""
        return self.lab.trainers(name)

    def warm(self, name: str) -> int:
        """The warm process's id: the trainers' parent."""
        [trainer] = self.trainers(name)
        return int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])

    def steps(self, generation: int) -> list[dict[str, Any]]:
        """The steps of a generation, in order."""
        return [line for line in self.lab.metrics() if line["generation"] == generation]

    def log(self) -> list[dict[str, Any]]:
        """The run's log, entry after entry."""
        return [json.loads(path.read_text()) for path in sorted((self.lab.directory.root / "log").glob("0*"))]

    def settle(self, steps: int = 5) -> None:
        """Until the generation is whole, the spare has proven itself, and `steps` steps were made since."""
        lab, count = self.lab, self.workload.count

        def whole() -> bool:
            roles = list(self.roles().values())
            enough = len(roles) >= count + SPARES and roles.count("active") == count == len(lab.members())
            return enough and all(self._ready(name) for name in self.roles())

        def undisturbed() -> bool:
            made = len(self.steps(lab.generation()["generation"]))
            return made >= max(targets.setdefault(lab.generation()["generation"], made + 2), steps)

        targets: dict[int, int] = {}
        lab.wait_for("every node ready", whole, START_SECONDS)
        lab.wait_for("undisturbed steps", undisturbed, steps * 20.0 + START_SECONDS)
        if not whole():
            self.settle(steps)

    def _ready(self, name: str) -> bool:
        return "ready after" in self.lab.directory.agent_log(name).read_text()

    def step_seconds(self, generation: int) -> float:
        """The median step, without the generation's first."""
        return float(median(line["seconds"] for line in self.steps(generation)[1:]))

    # ---- hurting -----------------------------------------------------------------------------------------------

    def episode(self, hurt: Callable[[], float], detected: str, node: str | None = None) -> Episode:
        """Hurt the run (returns t0) and follow it until training has passed its highest earlier step."""
        lab = self.lab
        before = lab.generation()["generation"]
        step_seconds = self.step_seconds(before)
        t0 = hurt()
        seen = lab.wait_event(detected, t0, node, STEP_SECONDS)
        first = lab.wait_step(0, STEP_SECONDS, before + 1)
        highest = self.steps(before)[-1]["step"]
        passed = lab.wait_step(highest + 1, STEP_SECONDS, before + 1)
        opened = lab.wait_event("GenerationOpened", t0)
        detected_s, opened_s, first_s, passed_s = (float(line["time"]) - t0 for line in (seen, opened, first, passed))
        return Episode(detected_s, opened_s, first_s, passed_s, step_seconds)

    def kill(self, name: str) -> float:
        """SIGKILL to all of the node; t0."""
        return self.lab.signal_node(name, signal.SIGKILL)

    def replace(self) -> str:
        """A node for the one that is gone."""
        return self.add_node()

    def seconds_until_gone(self, pids: list[int], limit: float = 30.0) -> float:
        """How long from now until none of the processes is alive."""
        began = time.monotonic()
        self.lab.wait_for("the processes' end", lambda: not any(alive(pid) for pid in pids), limit)
        return time.monotonic() - began


def require(condition: bool, message: str) -> None:
    """Raises NotShown."""
    if not condition:
        raise NotShown(message)
