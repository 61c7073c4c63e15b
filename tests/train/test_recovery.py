"""Recovery with real processes: a coordinator, torchrun agents, warm processes, trainers; killed, stopped and cut off
one by one.

The trainer trains nothing (programs/tiny_trainer.py), but its collectives, checkpoints and steps are real. Limits are
five times as wide as the figures in benchmarks/RESULTS.md: what is timed here is that it happens at all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, alive, free_port, manifest

from tessera_api.exit_codes import ExitCode

PROGRAM = Path(__file__).parent / "programs" / "tiny_trainer.py"
START_SECONDS = 240.0
DETECTED_SECONDS = 5.0
NEXT_STEP_SECONDS = 30.0
HANG_SECONDS = 5
TOKENS_OF_A_STEP = 8 * 64  # as the manifest's globalBatch and sequenceLength say

pytestmark = pytest.mark.timeout(400)

Start = Callable[..., Lab]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A run that has made twenty steps: `start(count=3, spares=1, hangSeconds=5, TINY_STEPS="100000")`."""
    labs: list[Lab] = []

    def begin(
        count: int = 3, spares: int = 1, least: int = 2, steps: int = 20, hangSeconds: int = 60, **environment: str
    ) -> Lab:
        settings = {"TINY_STEPS": "1000000", "TINY_STEP_SECONDS": "0.1", **environment}
        document = manifest("tiny", count=count, min=least)
        document["spec"]["training"]["tokens"] = int(settings["TINY_STEPS"]) * TOKENS_OF_A_STEP
        document["spec"]["hangSeconds"] = hangSeconds
        lab = Lab(tmp_path / "run", document, PROGRAM, settings)
        labs.append(lab)
        lab.resolve()
        lab.coordinate()
        for number in range(count + spares):
            lab.add_node(f"node-{number}")
        lab.wait_event("GenerationOpened", seconds=START_SECONDS)
        lab.wait_for("spare", lambda: spare_ready(lab, count + spares), START_SECONDS)
        lab.wait_for("all members", lambda: len(lab.members()) == count, START_SECONDS)
        lab.wait_step((lab.metrics() or [{"step": 0}])[-1]["step"] + steps, 60)
        return lab

    yield begin
    for lab in labs:
        lab.close()


def spare_ready(lab: Lab, nodes: int) -> bool:
    """All nodes have proven themselves: their warm processes say that they are ready."""
    logs = [lab.directory.agent_log(f"node-{number}") for number in range(nodes)]
    return all("ready after" in log.read_text() for log in logs)


def trainers(lab: Lab, name: str) -> list[int]:
    """The trainers of a node; none while the coordinator has not heard of it."""
    nodes: dict[str, dict[str, list[int]]] = json.loads(lab.directory.nodes.read_text())
    return nodes.get(name, {}).get("workerPids", [])


def next_generation(lab: Lab, after: int) -> dict[str, Any]:
    """The first step of a generation newer than `after`."""
    return lab.wait_step(0, NEXT_STEP_SECONDS, generation=after + 1)


def incidents(lab: Lab) -> list[dict[str, Any]]:
    """As they stand in the run directory."""
    return [json.loads(path.read_text()) for path in sorted(lab.directory.incidents.glob("*.json"))]


def steps_are_seamless(lab: Lab) -> bool:
    """Every generation goes on from a commit: the highest generation's line of each step gives one unbroken row."""
    best: dict[int, dict[str, Any]] = {}
    for line in lab.metrics():
        best[line["step"]] = line
    return sorted(best) == list(range(1, max(best) + 1))


def test_the_node_of_rank_0_is_killed_and_the_spare_takes_its_place(start: Start) -> None:
    lab = start()
    before, victim = lab.generation()["generation"], lab.members()[0]
    killed = lab.signal_node(victim)
    lost = lab.wait_event("NodeLost", killed, victim)
    first = next_generation(lab, before)
    assert lost["time"] - killed < DETECTED_SECONDS
    assert first["time"] - killed < NEXT_STEP_SECONDS
    assert (first["world_size"], victim in lab.members()) == (3, False)
    assert steps_are_seamless(lab)


def test_a_killed_worker_restarts_everybodys_workers_and_loses_no_node(start: Start) -> None:
    lab = start()
    before, members = lab.generation()["generation"], lab.members()
    agents = {name: lab.nodes[name].pid for name in members}
    worker = lab.wait_for("worker", lambda: trainers(lab, members[1]))[0]
    os.kill(worker, signal.SIGKILL)
    next_generation(lab, before)
    assert lab.members() == members
    assert all(alive(pid) for pid in agents.values())
    assert lab.event("NodeLost") is None


def test_a_killed_warm_process_takes_its_trainers_along_and_the_run_goes_on(start: Start) -> None:
    lab = start()
    before, name = lab.generation()["generation"], lab.members()[2]
    worker = lab.wait_for("worker", lambda: trainers(lab, name))[0]
    warm = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(warm, signal.SIGKILL)
    lab.wait_for("trainer's end", lambda: not alive(worker), 5)
    next_generation(lab, before)


def test_a_killed_agent_takes_every_process_of_its_node_along(start: Start) -> None:
    lab = start()
    before, name = lab.generation()["generation"], lab.members()[1]
    processes = lab.processes(name)
    assert len(processes) >= 4  # agent, warm process, thin client, trainer
    lab.nodes[name].kill()
    lab.wait_for("the node's end", lambda: not any(alive(pid) for pid in processes), 5)
    next_generation(lab, before)


def test_a_node_that_is_told_to_end_hands_over_with_a_commit_and_no_step_is_lost(start: Start) -> None:
    lab = start()
    before, victim = lab.generation()["generation"], lab.members()[0]
    told = time.time()
    lab.nodes[victim].terminate()

    first = next_generation(lab, before)

    assert lab.nodes[victim].wait(30) == ExitCode.STOPPED
    made = [line["step"] for line in lab.metrics() if line["generation"] == before]
    assert first["step"] == made[-1] + 1, "it goes on from the step at which all have parked"
    assert (first["world_size"], victim in lab.members()) == (3, False)
    assert first["time"] - told < NEXT_STEP_SECONDS
    assert lab.event("NodeLost") is None
    assert not list(lab.directory.incidents.glob("*.json")), "nothing of this is a failure"
    assert steps_are_seamless(lab)


def hang_of(lab: Lab, began: float) -> dict[str, Any]:
    """The event, within five times the limit and a second."""
    found = lab.wait_event("Hang", began, seconds=5 * (HANG_SECONDS + 1))
    assert found["time"] - began > HANG_SECONDS - 2
    return found


def test_a_trainer_that_the_kernel_has_stopped_is_found_named_and_everybody_begins_anew(start: Start) -> None:
    lab = start(hangSeconds=HANG_SECONDS)
    before, members = lab.generation()["generation"], lab.members()
    worker = lab.wait_for("worker", lambda: trainers(lab, members[1]))[0]
    began = time.time()
    os.kill(worker, signal.SIGSTOP)

    hang = hang_of(lab, began)

    assert hang["node"] == members[1]
    assert f"rank 1 on {members[1]} is stopped, while others wait in " in hang["message"]
    assert re.search(r"while others wait in \w+ .*, number \d+ of \w+", hang["message"]), hang["message"]
    next_generation(lab, before)
    (incident,) = incidents(lab)
    assert (incident["failure"], incident["node"], incident["rank"]) == ("Hang", members[1], 1)
    assert incident["action"] == "ReForm"
    evidence = lab.wait_for("evidence", lambda: lab.directory.evidence(1).exists() and lab.directory.evidence(1), 10)
    assert f"rank 0 on {members[0]}, sleeping" in evidence.read_text(), "what the others were doing is told too"
    assert lab.members() == members
    assert lab.event("NodeLost") is None
    assert steps_are_seamless(lab)


def test_a_trainer_that_never_lets_go_of_the_interpreter_is_named_with_its_line(start: Start, tmp_path: Path) -> None:
    lab = start(hangSeconds=HANG_SECONDS, TINY_HOG=str(tmp_path / "hog"))
    before, members = lab.generation()["generation"], lab.members()
    began = time.time()
    (tmp_path / "hog").touch()

    hang = hang_of(lab, began)

    assert hang["node"] == members[-1]
    assert f"rank 2 on {members[-1]} is running at tiny_trainer.py:" in hang["message"]
    assert " hog, while others wait" in hang["message"]
    next_generation(lab, before)
    stacks = lab.directory.rank_log(members[-1], before, 2).read_text()
    assert "in hog" in stacks
    assert steps_are_seamless(lab)


def test_a_silent_node_is_replaced_and_told_to_start_anew_when_it_goes_on(start: Start) -> None:
    lab = start()
    before, victim = lab.generation()["generation"], lab.members()[1]
    stopped = lab.signal_node(victim, signal.SIGSTOP)
    lost = lab.wait_event("NodeLost", stopped, victim)
    first = next_generation(lab, before)
    assert lost["time"] - stopped < 5 * 3.5
    assert victim not in lab.members()
    lab.signal_node(victim, signal.SIGCONT)
    lab.wait_event("NodeSeen", first["time"], victim)
    now = lab.metrics()[-1]["step"]
    lab.wait_step(now + 20, 60)
    assert lab.generation()["generation"] == before + 1
    assert steps_are_seamless(lab)


def test_a_coordinator_that_is_away_for_ten_seconds_costs_no_step_and_no_worker(start: Start) -> None:
    lab = start()
    generation, workers = lab.generation()["generation"], {n: trainers(lab, n) for n in lab.members()}
    lab.coordinators[-1].kill()
    lab.coordinators[-1].wait(10)
    step = lab.metrics()[-1]["step"]
    away(10)
    lab.coordinate()
    lab.wait_step(step + 60, 60)
    assert lab.generation()["generation"] == generation
    lab.wait_for("beats", lambda: {n: trainers(lab, n) for n in lab.members()} == workers, 20)
    steps = [line["step"] for line in lab.metrics()]
    assert steps == list(range(1, len(steps) + 1))


def test_a_node_killed_while_the_coordinator_is_away_is_missed_when_it_is_back(start: Start) -> None:
    lab = start()
    before, victim = lab.generation()["generation"], lab.members()[2]
    lab.coordinators[-1].kill()
    lab.coordinators[-1].wait(10)
    lab.signal_node(victim)
    away(3)
    lab.coordinate()
    back = lab.wait_for("restart", lambda: [e for e in lab.events() if e["name"] == "CoordinatorStarted"][1:])[0]
    first = next_generation(lab, before)
    assert first["time"] - back["time"] < 5 * 8
    assert steps_are_seamless(lab)


def test_a_coordinator_that_is_paused_for_ten_seconds_takes_no_action(start: Start) -> None:
    lab = start()
    generation = lab.generation()["generation"]
    os.kill(lab.coordinators[-1].pid, signal.SIGSTOP)
    away(10)
    os.kill(lab.coordinators[-1].pid, signal.SIGCONT)
    step = lab.metrics()[-1]["step"]
    lab.wait_step(step + 150, 60)
    assert lab.generation()["generation"] == generation
    assert (lab.event("NodeLost"), lab.event("SelfDoubt") is None) == (None, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping packets needs root")
def test_a_port_that_drops_all_packets_for_five_seconds_leads_to_no_action(start: Start) -> None:
    lab = start()
    generation = lab.generation()["generation"]
    rules = [["INPUT", "-p", "tcp", way, str(lab.port), "-j", "DROP"] for way in ("--dport", "--sport")]
    for rule in rules:
        subprocess.run(["iptables", "-I", *rule], check=True)
    try:
        away(5)
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-D", *rule], check=True)
    step = lab.metrics()[-1]["step"]
    lab.wait_step(step + 100, 60)
    assert (lab.generation()["generation"], lab.event("NodeLost")) == (generation, None)


def test_of_two_coordinators_the_older_one_exits_and_one_history_grows(start: Start) -> None:
    lab = start()
    old = lab.coordinators[-1]
    os.kill(old.pid, signal.SIGSTOP)
    lab.port = free_port()
    lab.coordinate()
    lab.wait_event("CoordinatorStarted", lab.events()[-1]["time"])
    os.kill(old.pid, signal.SIGCONT)
    assert old.wait(60) == 76
    entries = [json.loads(path.read_text()) for path in sorted((lab.directory.root / "log").glob("0*"))]
    claims = [entry["term"] for entry in entries if entry["kind"] == "claim"]
    assert claims == [1, 2]
    newest = [number for number, entry in enumerate(entries) if entry["kind"] == "claim"][-1]
    assert all(entry["term"] == 2 for entry in entries[newest:])


def test_a_stop_parks_commits_and_exits_and_the_next_start_goes_on_from_there(start: Start) -> None:
    lab = start()
    lab.stop()
    codes = {name: process.wait(60) for name, process in lab.nodes.items()}
    assert lab.coordinators[-1].wait(30) == 75
    assert set(codes.values()) == {75}
    stopped = lab.metrics()[-1]["step"]
    lab.resolve()
    lab.coordinate()
    for number in range(3):
        lab.add_node(f"node-{number}")
    resumed = lab.wait_step(stopped + 1, START_SECONDS)
    assert resumed["step"] == stopped + 1
    assert steps_are_seamless(lab)


def test_a_run_ends_with_its_last_step_committed_and_every_process_gone(start: Start) -> None:
    lab = start(count=2, spares=1, steps=1, TINY_STEPS="60")
    assert {process.wait(120) for process in lab.nodes.values()} == {0}
    assert lab.coordinators[-1].wait(30) == 0
    entries = [json.loads(path.read_text()) for path in sorted((lab.directory.root / "log").glob("0*"))]
    commits = [entry["step"] for entry in entries if entry["kind"] == "commit"]
    assert (commits[-1], entries[-1]["kind"], entries[-1]["reason"]) == (60, "end", "complete")
    assert json.loads(lab.directory.status.read_text())["phase"] == "Succeeded"


def test_a_program_that_fails_three_times_at_the_same_line_ends_the_run_with_the_place(start: Start) -> None:
    lab = start(count=2, spares=0, steps=1, TINY_FAIL_AT="25")
    assert lab.coordinators[-1].wait(120) == 70
    ended = lab.wait_event("Ended")
    assert "tiny_trainer.py" in ended["message"]
    assert "ValueError" in ended["message"]
    assert {process.wait(60) for process in lab.nodes.values()} == {70}


def test_a_node_on_which_alone_a_program_fails_proves_itself_and_is_then_replaced_by_the_spare(start: Start) -> None:
    lab = start(spares=0, steps=1, TINY_FAIL_AT="200", TINY_FAIL_ON="node-1")
    lab.add_node("node-3")  # whichever of four is ready last would be the spare
    lab.wait_for("spare", lambda: spare_ready(lab, 4), START_SECONDS)

    assert lab.nodes["node-1"].wait(120) == ExitCode.REPLACED

    lab.wait_step(205, NEXT_STEP_SECONDS)
    assert [one["action"] for one in incidents(lab)] == ["RestartInPlace", "ReForm", "ReplaceNode"]
    assert {(one["failure"], one["node"]) for one in incidents(lab)} == {("WorkerCrash", "node-1")}
    assert "this node has to prove itself" in lab.directory.agent_log("node-1").read_text()
    assert "node-1" not in lab.members()
    assert steps_are_seamless(lab)


@pytest.mark.parametrize(("how", "place"), [("code", "exit code 3"), ("import", "ModuleNotFoundError")])
def test_a_program_that_ends_before_it_says_a_word_ends_the_run_too(tmp_path: Path, how: str, place: str) -> None:
    program = PROGRAM.with_name("early_end.py")
    lab = Lab(tmp_path / "run", manifest("tiny", count=2, min=2), program, {"EARLY_END": how})
    try:
        lab.resolve()
        lab.coordinate()
        for number in range(2):
            lab.add_node(f"node-{number}")
        assert lab.coordinators[-1].wait(START_SECONDS) == 70
        assert place in lab.wait_event("Ended")["message"]
    finally:
        lab.close()


def away(seconds: float) -> None:
    """The time that something is away is what these tests are about."""
    time.sleep(seconds)
