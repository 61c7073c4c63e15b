"""Trainings for comparison, each to its last step: left alone, or driven through kills, shrinking and growth."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exact_evidence import Outcome, read_outcome
from lab import Lab
from workload import NAME, Workload

from tessera_api.resolved_run import ResolvedDataset

START_SECONDS = 300.0
RUN_SECONDS = 900.0
MOST = 4


@dataclass(frozen=True)
class Course:
    """Where trainings take place, over which data, and how long they are."""

    root: Path
    data: ResolvedDataset
    steps: int
    every: int = 7
    """Steps from checkpoint to checkpoint: not a divisor of anything else here."""
    snapshot_every: int | None = None
    """Steps from snapshot to snapshot; None: as from checkpoint to checkpoint."""

    @contextmanager
    def _started(self, name: str, nodes: int, spares: int = 0) -> Iterator[Lab]:
        workload = Workload(
            "llama-1m", self.steps, 64, 12, self.every, nodes, 1, MOST, snapshot_every=self.snapshot_every
        )
        evidence = self.root / name / "evidence"
        lab = Lab(self.root / name / "run", workload.manifest(name), None, {"TESSERA_EVIDENCE": str(evidence)})
        lab.resolve({NAME: self.data})
        lab.coordinate()
        try:
            for number in range(nodes + spares):
                lab.add_node(f"node-{number}")
            yield lab
        finally:
            lab.close()

    def _finished(self, lab: Lab, name: str) -> Outcome:
        lab.wait_for("the run's end", lambda: lab.coordinators[-1].poll() is not None, RUN_SECONDS)
        ended = lab.coordinators[-1].returncode
        if ended != 0:
            raise AssertionError(f"{name} ended with {ended}: {lab.events()[-5:]}")
        return read_outcome(self.root / name / "evidence", self.steps)

    def alone(self, nodes: int) -> Outcome:
        """Undisturbed on so many nodes."""
        name = f"alone-{nodes}"
        with self._started(name, nodes) as lab:
            return self._finished(lab, name)

    def through_faults(self, rounds: int = 1) -> tuple[Outcome, list[int]]:
        """Three nodes and a spare: rank 0's node is killed, then one more with nobody to replace it (the run shrinks),
        then a node comes and the run grows; so many times over. Returns the world sizes of the generations too."""
        with self._started("disturbed", 3, 1) as lab:
            _when_ready(lab, "node-3")
            for number in range(rounds):
                _kill(lab, 0, number * self.steps // rounds, odd=self.snapshot_every is None)
                _kill(lab, 1, odd=self.snapshot_every is None)
                _grow(lab, f"late-{number}")
                if number + 1 < rounds:
                    lab.add_node(f"spare-{number}")
                    _when_ready(lab, f"spare-{number}")
            outcome = self._finished(lab, "disturbed")
            return outcome, [len(entry["members"]) for entry in self.opened()]

    def opened(self) -> list[dict[str, Any]]:
        """The generations of the run through faults, as its log has them."""
        log = self.root / "disturbed" / "run" / "log"
        entries = [json.loads(path.read_text()) for path in sorted(log.glob("0*"))]
        return [entry for entry in entries if entry["kind"] == "open"]

    def incidents(self) -> list[dict[str, Any]]:
        """Its incidents."""
        folder = self.root / "disturbed" / "run" / "incidents"
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _kill(lab: Lab, rank: int, not_before: int = 0, *, odd: bool) -> None:
    """Kill the node of a rank, at an odd step if that is wanted, some steps into the open generation."""
    generation = lab.generation()["generation"]

    def come() -> bool:
        steps = [line["step"] for line in lab.metrics() if line["generation"] == generation]
        return len(steps) >= 2 and (steps[-1] % 2 == 1 or not odd) and steps[-1] >= not_before

    lab.wait_for("its time", come, RUN_SECONDS)
    lab.signal_node(lab.members()[rank])
    lab.wait_step(0, START_SECONDS, generation + 1)


def _grow(lab: Lab, name: str) -> None:
    """A new node comes while training is held still, so that its arrival does not depend on how fast steps are."""
    generation = lab.generation()["generation"]
    with _held(lab):
        lab.add_node(name)
        lab.wait_for("the order to grow", lambda: _ordered(lab, generation), START_SECONDS)
    lab.wait_step(0, START_SECONDS, generation + 1)


def _ordered(lab: Lab, generation: int) -> bool:
    return any(e["name"] == "StopOrdered" and e["generation"] == generation for e in lab.events())


def _when_ready(lab: Lab, name: str) -> None:
    """Hold training until the spare has proven itself."""
    lab.wait_step(1, START_SECONDS)
    with _held(lab):
        log = lab.directory.agent_log(name)
        lab.wait_for(f"{name} ready", lambda: "ready after" in log.read_text() and _is_known(lab, name), START_SECONDS)


def _is_known(lab: Lab, name: str) -> bool:
    return name in json.loads(lab.directory.nodes.read_text())


@contextmanager
def _held(lab: Lab) -> Iterator[None]:
    """One trainer is stopped, so that no step is completed; its node beats on, so that nobody is lost."""
    trainer = lab.trainers(lab.members()[0])[0]
    os.kill(trainer, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(trainer, signal.SIGCONT)
