"""Drills: what is refused, what is done once, and what counts as kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera_api.drill import LASTING, OF_COORDINATORS, OF_THE_API_SERVER, PROMISES, Drill, Fault
from tessera_api.incident import Incident
from tessera_api.training_run_status import DrillResult
from tessera_coordinator.core.drilling import WATCHED_SECONDS, Drills
from tessera_operator.core.drill_request import drill_of
from tessera_run.clock_drill import OFF_SECONDS
from tessera_trainer import drills as node_drills
from tessera_trainer.drills import Surroundings, perform
from tests.unit.live_coordinator import eventually

MEMBERS = ("node-0", "node-1")


def order(fault: Fault = Fault.WORKER_KILL, identity: str = "a1", node: str | None = None) -> Drill:
    return Drill(identity=identity, fault=fault, node=node)


def allowed(hang_seconds: float = 60.0) -> Drills:
    return Drills(allowed=True, hang_seconds=hang_seconds, every=10)


def incident(signal_time: float, detected: float, next_step: float | None = None, lost: int | None = None) -> Incident:
    return Incident(
        number=1,
        cause="c",
        nodes=(),
        detected=detected,
        generation_before=1,
        highest_step_before=50,
        signal_time=signal_time,
        next_step=next_step,
        steps_lost=lost,
    )


def result(drills: Drills, now: float, *incidents: Incident) -> DrillResult:
    (shown,) = drills.shown(incidents, now)
    return shown.result


def test_every_fault_has_a_promise() -> None:
    assert set(PROMISES) == set(Fault)
    assert set(Fault) >= LASTING | OF_COORDINATORS | OF_THE_API_SERVER


@pytest.mark.parametrize(
    ("drills", "asked", "members", "words"),
    [
        (Drills(False, 60.0, 10), order(), MEMBERS, "this run allows no drills: set spec.drills to Allowed"),
        (allowed(), order(), (), "no generation is open: try again once the run trains"),
        (allowed(), order(node="node-7"), MEMBERS, "node-7 does not train: node-0, node-1 do"),
        (allowed(), order(node="node-1"), MEMBERS, None),
        (allowed(), order(), MEMBERS, None),
    ],
)
def test_what_cannot_be_done_is_refused(
    drills: Drills, asked: Drill, members: tuple[str, ...], words: str | None
) -> None:
    assert drills.refused(asked, members) == words


def test_an_order_that_is_told_again_is_done_once_by_whichever_coordinator_leads() -> None:
    first = allowed()
    line = first.begun(order(), MEMBERS, 100.0)
    after = Drills(True, 60.0, 10, [line])

    assert (first.refused(order(), MEMBERS), after.refused(order(), MEMBERS)) == ("", "")
    assert line.drill.node == "node-0", "the node of rank 0"
    for number, fault in enumerate(OF_COORDINATORS | OF_THE_API_SERVER):
        assert first.begun(order(fault, f"b{number}", "node-1"), MEMBERS, 101.0).drill.node is None


def test_an_incident_soon_after_is_the_faults_and_a_late_one_is_not() -> None:
    drills = allowed()
    drills.begun(order(), MEMBERS, 100.0)

    assert (drills.signal_of(900.0), drills.signal_of(99.0), drills.signal_of(103.0)) == (None, None, 100.0)


def test_of_two_incidents_after_a_fault_only_the_first_is_its_and_a_kept_promise_stays_kept() -> None:
    drills = allowed()
    drills.begun(order(), MEMBERS, 100.0)
    assert (drills.signal_of(103.0), drills.signal_of(140.0)) == (100.0, None)

    first, second = incident(100.0, 103.0, 110.0, lost=2), incident(100.0, 140.0, 150.0, lost=2)
    assert result(drills, 160.0, first, second) is DrillResult.KEPT


def test_what_happens_long_after_a_fault_that_nothing_was_to_come_of_is_not_its() -> None:
    drills = allowed()
    drills.begun(order(Fault.COORDINATOR_KILL), MEMBERS, 100.0)

    assert drills.signal_of(100.0 + WATCHED_SECONDS + 1) is None


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ((), DrillResult.RUNS),
        ((incident(100.0, 103.0),), DrillResult.RUNS),
        ((incident(100.0, 103.0, 110.0, lost=20),), DrillResult.KEPT),
        ((incident(100.0, 106.0, 110.0, lost=20),), DrillResult.BROKEN),
        ((incident(100.0, 103.0, 134.0, lost=20),), DrillResult.BROKEN),
        ((incident(100.0, 103.0, 110.0, lost=21),), DrillResult.BROKEN),
        ((incident(55.0, 103.0, 110.0, lost=0),), DrillResult.RUNS),
    ],
)
def test_a_promise_is_kept_by_what_was_measured(found: tuple[Incident, ...], kept: DrillResult) -> None:
    drills = allowed()
    drills.begun(order(), MEMBERS, 100.0)

    assert result(drills, 120.0, *found) is kept


def test_a_fault_that_nothing_came_of_has_broken_its_promise_in_the_end() -> None:
    drills = allowed()
    drills.begun(order(), MEMBERS, 100.0)

    assert result(drills, 100.0 + 60.0 + 91.0) is DrillResult.BROKEN


def test_a_hang_has_the_runs_own_time_to_be_found() -> None:
    drills = allowed(hang_seconds=30.0)
    drills.begun(order(Fault.LOCK_HOG), MEMBERS, 100.0)

    assert result(drills, 150.0, incident(100.0, 134.0, 140.0, lost=3)) is DrillResult.KEPT
    assert result(drills, 150.0, incident(100.0, 136.0, 140.0, lost=3)) is DrillResult.BROKEN


def test_where_nothing_is_to_happen_nothing_may() -> None:
    drills = allowed()
    drills.begun(order(Fault.COORDINATOR_KILL), MEMBERS, 100.0)

    assert result(drills, 100.0 + WATCHED_SECONDS - 1) is DrillResult.RUNS
    assert result(drills, 100.0 + WATCHED_SECONDS) is DrillResult.KEPT
    assert result(drills, 100.0 + WATCHED_SECONDS, incident(100.0, 104.0)) is DrillResult.BROKEN


@pytest.mark.parametrize(
    ("value", "drill"),
    [
        ("try-1 worker-kill", Drill(identity="try-1", fault=Fault.WORKER_KILL)),
        ("2 node-stop gpt-n0-0 7.5", Drill(identity="2", fault=Fault.NODE_STOP, node="gpt-n0-0", seconds=7.5)),
        ("3 slow-node 20", Drill(identity="3", fault=Fault.SLOW_NODE, seconds=20)),
        ("", None),
        ("worker-kill", None),
        ("4 earthquake", None),
        ("5 node-stop n 700000", None),
        ("a b c d e", None),
    ],
)
def test_an_annotation_asks_for_a_drill_or_for_none(value: str, drill: Drill | None) -> None:
    assert drill_of(value) == drill


class Trainers:
    """Processes that a drill may hurt."""

    def __init__(self) -> None:
        sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        self.processes = {rank: subprocess.Popen(sleep) for rank in (3, 5)}
        self.told: list[dict[str, object]] = []
        self.cut: list[float] = []
        self.storing: list[Drill] = []
        self.shaken: list[float] = []
        self.around = Surroundings(
            trainers=lambda: {rank: process.pid for rank, process in self.processes.items()},
            others=list,
            tell=self.told.append,
            storing=self.storing.append,
            cut=self.cut.append,
            shake=self.shaken.append,
        )

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def trainers() -> Trainers:
    return Trainers()


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        (Fault.WORKER_KILL, signal.SIGKILL),
        (Fault.WORKER_SEGFAULT, signal.SIGSEGV),
        (Fault.WORKER_ABORT, signal.SIGABRT),
    ],
)
def test_the_first_rank_of_the_node_is_hurt(trainers: Trainers, fault: Fault, number: signal.Signals) -> None:
    try:
        perform(order(fault), trainers.around)
        assert trainers.processes[3].wait(10) == -number
        assert trainers.processes[5].poll() is None
    finally:
        trainers.close()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_trainer_that_is_stopped_stays_so_and_others_go_on_after_their_time(trainers: Trainers) -> None:
    try:
        perform(Drill(identity="a", fault=Fault.WORKER_STOP, seconds=0.0), trainers.around)
        pid = trainers.processes[3].pid
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert state(pid) == "T"
        node_drills.later(0.1, "CONT", [pid])
        os.waitid(os.P_PID, pid, os.WCONTINUED | os.WNOWAIT)
        assert state(pid) in "RS"
    finally:
        trainers.close()


def test_what_only_a_trainer_can_do_to_itself_it_is_told(trainers: Trainers) -> None:
    try:
        perform(order(Fault.WORKER_EXCEPTION), trainers.around)
        perform(order(Fault.STREAM_CUT), trainers.around)
        perform(order(Fault.PACKET_LOSS), trainers.around)
        assert trainers.shaken == [10.0]
        assert trainers.told == [{"drill": "worker-exception", "rank": 3}]
        assert trainers.cut == [10.0]
    finally:
        trainers.close()


def test_what_is_stored_is_the_keepers_to_hurt(trainers: Trainers) -> None:
    try:
        perform(order(Fault.DISK_FULL), trainers.around)
        assert [drill.fault for drill in trainers.storing] == [Fault.DISK_FULL]
        assert trainers.told == []
    finally:
        trainers.close()


def test_all_clocks_of_a_node_are_off_for_the_drills_time(trainers: Trainers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", time.time)  # put back afterwards
    right = time.time()
    try:
        perform(Drill(identity="a", fault=Fault.CLOCK_STEP, seconds=0.2), trainers.around)
        assert time.time() - right >= OFF_SECONDS
        assert [(told["rank"], told["seconds"]) for told in trainers.told] == [(3, 0.2), (5, 0.2)]
        end = time.monotonic() + 0.2
        eventually(lambda: time.monotonic() >= end, "the drill is over")
        assert time.time() - right < OFF_SECONDS / 2
    finally:
        trainers.close()


def test_a_node_without_power_is_silent_first_and_gone_later(
    trainers: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_drills, "SILENT_SECONDS", 0.2)
    pids = [process.pid for process in trainers.processes.values()]
    try:
        node_drills._by_signal(order(Fault.POWER_LOSS), pids)
        for pid in pids:
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert [process.wait(10) for process in trainers.processes.values()] == [-signal.SIGKILL] * 2
    finally:
        trainers.close()


def test_a_slowed_node_stands_still_for_most_of_the_time_and_not_for_longer(
    trainers: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_drills, "SLICE_SECONDS", 0.02)
    try:
        node_drills._slow(0.1, trainers.around)
        assert all(state(process.pid) in "RS" for process in trainers.processes.values())
    finally:
        trainers.close()


AS_FIRST = """
import time
from tessera_api.drill import Drill, Fault
from tessera_trainer.drills import Surroundings, perform

around = Surroundings(trainers=dict, others=list, tell=print, storing=print, cut=print, shake=print)
began = time.monotonic()
perform(Drill(identity="a", fault=Fault.{fault}, seconds=0.3), around)
print("went on", time.monotonic() - began >= 0.3)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace of one's own needs root")
@pytest.mark.parametrize(
    ("fault", "code", "said"), [("AGENT_KILL", 128 + signal.SIGKILL, ""), ("AGENT_STOP", 0, "went on True\n")]
)
def test_a_containers_first_process_is_hurt_too_though_signals_do_nothing_to_it(
    fault: str, code: int, said: str
) -> None:
    words = ["unshare", "--fork", "--pid", sys.executable, "-c", AS_FIRST.replace("{fault}", fault)]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (code, said)
