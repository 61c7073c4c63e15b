"""Stragglers on the real trainer: a node whose trainers have a third of the time is named, hands over to a spare, and
is sent away; the run loses no step and no bit of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from exact_course import Course
from exact_evidence import read_outcome
from lab import Lab
from workload import NAME, Workload, dataset

from tessera_api.exit_codes import ExitCode

STEPS = 300
SECONDS = 300.0
SLICE_SECONDS = 0.15
SHARE = 0.3
pytestmark = pytest.mark.timeout(600)


class Slowed:
    """A node's trainers run for a share of each slice, until the end."""

    def __init__(self, lab: Lab, node: str) -> None:
        self._lab, self._node, self._done = lab, node, threading.Event()
        self._thread = threading.Thread(target=self._slow)

    def __enter__(self) -> Slowed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _slow(self) -> None:
        while not self._done.is_set():
            pids = self._lab.trainers(self._node) if self._lab.nodes[self._node].poll() is None else []
            for number, share in ((signal.SIGSTOP, 1 - SHARE), (signal.SIGCONT, SHARE)):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(share * SLICE_SECONDS)


def test_a_slow_node_is_named_and_a_spare_takes_its_place_without_a_bit_lost(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", vocabulary=512)
    alone = Course(tmp_path, data, STEPS).alone(3)
    document = Workload("llama-1m", STEPS, 64, 12, 20, 3, 1, 3).manifest("slow")
    document["spec"]["stragglers"] = "Replace"
    lab = Lab(tmp_path / "run", document, None, {"TESSERA_EVIDENCE": str(tmp_path / "evidence")})
    lab.resolve({NAME: data})
    lab.coordinate()
    for number in range(4):
        lab.add_node(f"node-{number}")
    try:
        lab.wait_step(20, SECONDS)
        members = lab.members()
        victim = members[1]
        with Slowed(lab, victim):
            told = lab.wait_event("Straggler", node=victim, seconds=SECONDS)
            lab.wait_for("another takes its place", lambda: victim not in lab.members(), SECONDS)
            lab.wait_for("it is sent away", lambda: lab.nodes[victim].poll() is not None, SECONDS)
        assert lab.nodes[victim].returncode == ExitCode.REPLACED
        assert told["message"].startswith("rank 1 works ")
        assert sorted(lab.members()) == sorted({f"node-{number}" for number in range(4)} - {victim})
        lab.wait_for("the run's end", lambda: lab.coordinators[-1].poll() is not None, SECONDS)
        assert lab.coordinators[-1].returncode == 0, lab.events()[-5:]
    finally:
        lab.close()
    assert [event for event in lab.events() if event["name"] in ("NodeLost", "WorkerFailed")] == []
    assert read_outcome(tmp_path / "evidence", STEPS) == alone
