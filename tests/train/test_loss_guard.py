"""The loss guard on the real trainer: a device that makes nothing of numbers costs no bit, and of weights that went
wrong training goes back to before, without the data that came with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from exact_course import Course
from exact_evidence import read_outcome
from lab import Lab
from workload import NAME, Workload, dataset

from tessera_api.drill import Fault
from tessera_api.resolved_run import ResolvedDataset

STEPS = 300
SPIKE_AT = 170
SECONDS = 300.0
pytestmark = pytest.mark.timeout(600)


def started(root: Path, data: ResolvedDataset, steps: int) -> Lab:
    """Three nodes, and drills allowed."""
    document = Workload("llama-1m", steps, 64, 12, 20, 3, 1, 4).manifest("guarded")
    document["spec"]["drills"] = "Allowed"
    lab = Lab(root / "run", document, None, {"TESSERA_EVIDENCE": str(root / "evidence")})
    lab.resolve({NAME: data})
    lab.coordinate()
    for number in range(3):
        lab.add_node(f"node-{number}")
    return lab


def drilled(lab: Lab) -> tuple[str, str]:
    """What came of the newest drill, as the status tells it."""
    shown = json.loads(lab.directory.status.read_text())["drills"][-1]
    return shown["fault"], shown["result"]


def ended(lab: Lab) -> list[dict[str, Any]]:
    """The run's log, once it is complete."""
    lab.wait_for("the run's end", lambda: lab.coordinators[-1].poll() is not None, SECONDS)
    assert lab.coordinators[-1].returncode == 0, lab.events()[-5:]
    return [json.loads(path.read_text()) for path in sorted((lab.directory.root / "log").glob("0*"))]


def test_a_device_that_makes_nothing_of_numbers_is_found_and_costs_no_bit(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", vocabulary=512)
    steps = 120
    alone = Course(tmp_path, data, steps).alone(3)
    lab = started(tmp_path / "hurt", data, steps)
    try:
        lab.wait_step(20, SECONDS)
        lab.drill(Fault.NAN_GRADIENT)
        lab.add_node("node-3")  # for the one that is sent away
        ended(lab)
    finally:
        lab.close()

    assert drilled(lab) == ("nan-gradient", "Kept")
    (incident,) = [json.loads(path.read_text()) for path in sorted(lab.directory.incidents.glob("*.json"))]
    assert (incident["failure"], "SickDevice" in incident["place"]) == ("SickDevice", True)
    assert read_outcome(tmp_path / "hurt" / "evidence", steps) == alone


def test_training_goes_back_to_before_a_spike_without_its_data(tmp_path: Path) -> None:
    lab = started(tmp_path, dataset(tmp_path / "data", vocabulary=512), STEPS)
    try:
        lab.wait_step(SPIKE_AT, SECONDS)
        lab.drill(Fault.LOSS_SPIKE)
        log = ended(lab)
    finally:
        lab.close()

    assert drilled(lab) == ("loss-spike", "Kept")
    (rewind,) = [entry for entry in log if entry["kind"] == "rewind"]
    after = next(entry for entry in log if entry["kind"] == "open" and entry["generation"] > rewind["generation"])
    assert rewind["from_step"] - rewind["to_step"] >= 100
    assert after["resume"]["step"] == rewind["to_step"]
    assert after["skips"] == [rewind["skip"]]
    assert rewind["skip"]["first"] >= rewind["to_step"] * 12
    assert rewind["skip"]["last"] == (rewind["from_step"] + 200) * 12
