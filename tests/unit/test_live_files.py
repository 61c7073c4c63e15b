"""The live files of the run directory: whole lines whatever was killed, documents replaced in one step, and a full disk
that costs a line but never its neighbours."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_api.incident import Incident
from tessera_api.journal import Event, EventName, StepLine
from tessera_api.run_directory import RunDirectory
from tessera_coordinator.live_files import LiveFiles, replace_json

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tessera_api.journal import Event, EventName
from tessera_api.run_directory import RunDirectory
from tessera_coordinator.live_files import LiveFiles

directory = RunDirectory(Path(sys.argv[1]))
files = LiveFiles(directory)
def say(text): files.event(Event(time=1.0, name=EventName.NOTE, message=text))
say("before")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (directory.events.stat().st_size + 10, hard))
try:
    say("while the disk is full")
except OSError:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
say("after")
"""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def step(number: int) -> StepLine:
    return StepLine(time=1.0, step=number, tokens=9, loss=2.5, generation=1, world_size=4, lr=0.1)


def event(message: str) -> Event:
    return Event(time=1.5, name=EventName.NODE_LOST, node="node-1", message=message)


def incident(number: int, opened: float | None = None) -> Incident:
    return Incident(
        number=number,
        cause="lost",
        nodes=("a",),
        detected=1.0,
        generation_before=1,
        highest_step_before=5,
        opened=opened,
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_is_known_and_nothing_else(directory: RunDirectory) -> None:
    files = LiveFiles(directory)

    files.step(step(3))
    files.event(event("gone"))

    files.close()
    assert lines(directory.metrics) == [
        {"time": 1.0, "step": 3, "tokens": 9, "loss": 2.5, "lr": 0.1, "generation": 1, "world_size": 4, "numbers": {}}
    ]
    assert lines(directory.events) == [
        {
            "time": 1.5,
            "name": "NodeLost",
            "generation": 0,
            "term": 0,
            "node": "node-1",
            "message": "gone",
            "numbers": {},
        }
    ]


def test_a_line_that_a_killed_coordinator_tore_stays_alone(directory: RunDirectory) -> None:
    directory.metrics.write_bytes(b'{"step": 1}\n{"step": 2, "tok')
    files = LiveFiles(directory)

    files.step(step(2))

    files.close()
    first, torn, second = directory.metrics.read_text().splitlines()
    assert (first, torn) == ('{"step": 1}', '{"step": 2, "tok')
    assert StepLine.model_validate_json(second) == step(2)


def test_whole_files_are_continued_and_not_changed(directory: RunDirectory) -> None:
    for number in (1, 2):
        files = LiveFiles(directory)
        files.step(step(number))
        files.close()

    assert [line["step"] for line in lines(directory.metrics)] == [1, 2]


def test_a_reader_of_a_document_meets_the_old_one_or_the_new_one(directory: RunDirectory) -> None:
    files = LiveFiles(directory)
    files.status({"phase": "Starting"}, now=100.0)
    with directory.status.open() as reader:
        files.status({"phase": "Running"}, now=100.0)
        assert json.load(reader) == {"phase": "Starting"}

    files.nodes({"node-0": {"agentPid": 4}})

    files.close()
    assert json.loads(directory.status.read_text()) == {"phase": "Running"}
    assert json.loads(directory.nodes.read_text()) == {"node-0": {"agentPid": 4}}
    assert [path.name for path in directory.root.iterdir() if path.name.startswith(".")] == []


def test_numbers_of_the_status_are_written_every_few_seconds_and_what_has_happened_at_once(
    directory: RunDirectory,
) -> None:
    files, shown = LiveFiles(directory), []
    for now, phase, step in ((100.0, "Running", "1/9"), (101.0, "Running", "2/9"), (104.0, "Recovering", "3/9")):
        files.status({"phase": phase, "step": step}, now)
        shown.append(json.loads(directory.status.read_text())["step"])
    for now in (105.0, 109.0):
        files.status({"phase": "Recovering", "step": f"at {now}"}, now)
        shown.append(json.loads(directory.status.read_text())["step"])

    files.close()
    assert shown == ["1/9", "1/9", "3/9", "3/9", "at 109.0"]


def test_incidents_are_numbered_replaced_and_read_in_order(directory: RunDirectory) -> None:
    files = LiveFiles(directory)
    for each in (incident(2), incident(1), incident(1, opened=5.0)):
        files.incident(each.number, {**each.model_dump(mode="json"), "addedLater": 1})

    assert files.incidents() == [incident(1, opened=5.0), incident(2)]

    files.close()


@pytest.mark.parametrize("damaged", [b"", b'{"number": 2}', b"[2]", b"\xff"])
def test_an_incident_that_a_crashed_machine_left_damaged_is_passed_over(
    directory: RunDirectory, damaged: bytes
) -> None:
    files = LiveFiles(directory)
    files.incident(1, incident(1).model_dump(mode="json"))
    (directory.incidents / "0002.json").write_bytes(damaged)

    assert files.incidents() == [incident(1)]

    files.close()


def test_a_document_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    replace_json(path, {"old": True})

    with pytest.raises(TypeError):
        replace_json(path, {"new": object()})

    assert json.loads(path.read_text()) == {"old": True}


def test_a_full_disk_costs_a_line_and_not_the_next_one(directory: RunDirectory) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(directory.root)], env=environment, capture_output=True, timeout=60
    )

    assert (done.returncode, done.stdout) == (0, b"refused\n"), done.stderr
    assert [line["message"] for line in lines(directory.events)] == ["before", "after"]
