"""What a training program sees of Tessera, against a real link and a real coordinator: what it says arrives, what it
is told reaches it, and nothing of it ever holds up or ends training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tessera_run
import tessera_run.run
from tessera_api.log import Commit
from tessera_api.seat import Seat
from tessera_coordinator.core.seating import Seating
from tessera_run import NotCommitted, Part, Run, Span, connect
from tests.unit.live_coordinator import LIMIT_S, LiveCoordinator, LiveNode, eventually, stored

GLOO_CLOSED = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"
    " [127.0.0.1]:14230. This is typically caused by a remote worker crashing."
)


class Place:
    """One node in a generation of its own."""

    def __init__(self, coordinator: LiveCoordinator, node: LiveNode) -> None:
        self.coordinator, self.node = coordinator, node
        self.opening: Seat = node.join()

    def connect(self, rank: int = 0) -> Run:
        return connect(self.node.environment(self.opening, rank))

    def parts(self, step: int) -> list[Part]:
        share = stored(self.opening, 0, step)
        return [Part(share.name, share.size, share.sha256)]

    def trainer(self, program: str) -> subprocess.Popen[str]:
        """A training program of its own process; `run` is its connection."""
        text = "import sys, time, tessera_run\nwith tessera_run.connect() as run:\n    print('up', flush=True)\n"
        text += "".join(f"    {line}\n" for line in program.splitlines())
        environment = {**os.environ, **self.node.environment(self.opening), "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [sys.executable, "-c", text], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process


@pytest.fixture(autouse=True)
def _alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run in this process must not end this process: that would end the tests without a word."""
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    yield
    assert ends == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with LiveCoordinator(tmp_path) as coordinator, LiveNode(coordinator, "node-0", tmp_path) as node:
        yield Place(coordinator, node)


# ---- what it says ----------------------------------------------------------------------------------------------


def test_a_step_becomes_a_line_of_metrics(place: Place) -> None:
    with place.connect() as run:
        run.step(1, 100, 2.5, grad_norm=0.5, lr=0.001, tokens_per_second=9.0, mfu=0.25, seconds=0.1, custom=7.0)
        (line,) = place.coordinator.metrics(1)

    assert abs(line.pop("time") - time.time()) < LIMIT_S
    known = {"step": 1, "tokens": 100, "loss": 2.5, "grad_norm": 0.5, "lr": 0.001, "tokens_per_second": 9.0}
    assert line == {**known, "mfu": 0.25, "seconds": 0.1, "generation": 1, "world_size": 1, "numbers": {"custom": 7.0}}


def test_only_the_steps_of_rank_0_are_written(place: Place) -> None:
    with place.connect(rank=1) as other, place.connect() as run:
        other.step(1, 100, 9.9)
        other.close()
        run.step(1, 100, 2.5)

        assert [line["loss"] for line in place.coordinator.metrics(1)] == [2.5]


def test_many_steps_arrive_in_order(place: Place) -> None:
    with place.connect() as run:
        for step in range(1, 501):
            run.step(step, step, 1.0)

        assert [line["step"] for line in place.coordinator.metrics(500)] == list(range(1, 501))


class _Scalar:
    """As a tensor of one element is."""

    def __float__(self) -> float:
        return 2.5


@pytest.mark.parametrize(
    ("loss", "numbers", "shown"),
    [
        (float("nan"), {}, {}),
        (2.5, {f"n{number}": 1.0 for number in range(500)}, {f"n{number}": 1.0 for number in range(32)}),
        (2.5, {"n" * 500: 1.0}, {"n" * 40: 1.0}),
        (_Scalar(), {"scalar": _Scalar(), "flag": True}, {"scalar": 2.5, "flag": 1.0}),
    ],
    ids=["no number", "too many", "too long a name", "tensors"],
)
def test_a_step_is_cut_to_what_can_be_told(
    place: Place, loss: float, numbers: dict[str, float], shown: dict[str, float]
) -> None:
    with place.connect() as run:
        run.step(1, 1, loss, **numbers)

        assert place.coordinator.metrics(1)[0]["numbers"] == shown


def test_nonsense_costs_the_report_and_not_the_line(place: Place) -> None:
    with place.connect() as run:
        run.phase("lunch")
        run.step(-5, 1, 1.0)
        run.commit(5, -1, [Part("x" * 900, 1, "no hash")])
        run.note("N" * 200, "m" * 5000)
        run.step(1, 1, 1.0)

        assert [line["step"] for line in place.coordinator.metrics(1)] == [1]
        assert place.coordinator.event("Note")["message"].startswith("N" * 63 + ": mmm")


def test_a_loss_that_is_none_is_the_programs_own_mistake_alone_too() -> None:
    run = connect({})

    with pytest.raises(TypeError):
        run.step(1, 1, None)  # type: ignore[arg-type]


def test_a_part_is_committed_and_whoever_waits_goes_on(place: Place) -> None:
    with place.connect() as run:
        assert run.committed_step == -1
        run.commit(5, 50, place.parts(5), seconds=0.5, stall_seconds=0.1)
        run.wait_committed(5, LIMIT_S)

        commit = place.coordinator.entry(Commit)
        assert (commit.step, commit.position, commit.objects) == (5, 50, (stored(place.opening, 0, 5),))
        assert run.committed_step == 5


def test_a_checkpoint_that_is_not_committed_in_time_is_an_error(place: Place) -> None:
    with place.connect() as run, pytest.raises(NotCommitted, match="step 5"):
        run.wait_committed(5, 0.05)


def test_a_checkpoint_is_resumed_from_by_the_next_generation(place: Place) -> None:
    with place.connect() as run:
        assert run.resume() is None
        run.commit(5, 50, place.parts(5))
        run.wait_committed(5, LIMIT_S)
        run.skip(Span(60, 70), "spike")
        run.rewind(Span(5, 7), "spike")
        eventually(place.node.link.restart_wanted, "the generation ends")
    parts = tuple(place.parts(5))
    place.opening = place.node.join()

    with place.connect() as run:
        resume = run.resume()
        assert resume is not None
        assert (resume.step, resume.position, tuple(resume.objects), resume.holders) == (5, 50, parts, ())
        assert (run.generation, run.skips, run.committed_step) == (2, (Span(60, 70),), 5)
        run.wait_committed(5, 0.0)


def test_phases_and_notes_are_events(place: Place) -> None:
    with place.connect() as run:
        run.phase("train", step=2)
        with tessera_run.run.declared(run, "evaluation", step=3):
            run.note("Held", "bits per byte", value=1.5)
        note = place.coordinator.event("Note")
        phases = eventually(
            lambda: place.coordinator.events("Phase")[2:] and place.coordinator.events("Phase"), "three"
        )

    assert (note["message"], note["numbers"]) == ("Held: bits per byte", {"value": 1.5})
    assert [phase["message"] for phase in phases] == ["train at step 2", "evaluation at step 3", "train at step 3"]


# ---- what it is told -------------------------------------------------------------------------------------------


def test_an_order_to_stop_reaches_the_program_and_one_that_comes_later(place: Place) -> None:
    with place.connect() as run:
        assert run.should_stop() is None
        place.coordinator.order_stop("Ctrl-C", 60.0)
        stop = eventually(run.should_stop, "the order")

        assert (stop.reason, 40 < stop.deadline - time.monotonic() <= 60) == ("Ctrl-C", True)

    order = place.node.link.stop_order
    assert order is not None
    place.node.link._stop = (order[0], order[1] - 50.0)
    with place.connect() as late:
        stop = eventually(late.should_stop, "the order")
        assert stop.deadline - time.monotonic() <= 10.5


def test_a_stop_is_obeyed_by_parking_and_the_process_stands_still(place: Place) -> None:
    program = """
while not (stop := run.should_stop()): time.sleep(0.01)
run.commit(3, 30, [])
run.park(3)
"""
    process = place.trainer(program)
    place.coordinator.order_stop("Ctrl-C")

    assert eventually(lambda: place.node.link.closed, "the end of the run").reason == "stopped at step 3: Ctrl-C"

    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_generation_that_is_over_takes_no_trainers(place: Place) -> None:
    environment = {**place.node.environment(place.opening), "TESSERA_GENERATION": "77"}

    with pytest.raises(ConnectionError, match="this generation is over"):
        connect(environment)


# ---- failing ---------------------------------------------------------------------------------------------------


def test_a_collective_error_is_reported_and_the_process_parks(place: Place) -> None:
    process = place.trainer(f"raise RuntimeError({GLOO_CLOSED!r})")

    event = place.coordinator.event("CollectiveError")

    assert (event["node"], "Connection closed by peer" in event["message"]) == ("node-0", True)
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_an_ordinary_error_is_reported_with_its_place_and_ends_the_process(place: Place) -> None:
    process = place.trainer("{}['missing']")

    process.communicate(timeout=LIMIT_S)

    event = place.coordinator.event("WorkerFailed")
    assert process.returncode == 1
    assert "<string>:4 KeyError" in event["message"]


def test_a_program_that_ends_well_exits_well_and_its_last_words_arrive(place: Place) -> None:
    for step in range(1, 6):
        process = place.trainer(f"run.step({step}, 1, 1.0)")
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0

    assert [line["step"] for line in place.coordinator.metrics(5)] == [1, 2, 3, 4, 5]


def test_when_the_agent_is_gone_the_trainer_ends(place: Place) -> None:
    process = place.trainer("time.sleep(600)")

    place.node.stop()

    process.communicate(timeout=LIMIT_S)
    assert process.returncode == tessera_run.run.AGENT_GONE


# ---- alone and in trouble ------------------------------------------------------------------------------------------


def test_without_tessera_every_call_is_a_no_op() -> None:
    with connect({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) as run:
        run.step(1, 1, 2.5, lr=0.1)
        run.progress(4)
        run.phase("train")
        run.note("Note", "hello")
        run.commit(1, 1, [Part("x", 1, "y")])
        run.wait_committed(1, 0.0)
        run.rewind(Span(0, 1), "x")
        run.skip(Span(0, 1), "x")
        assert (run.alone, run.rank, run.world_size, run.local_rank) == (True, 1, 4, 1)
        assert (run.resume(), run.should_stop(), run.skips, run.dropped) == (None, None, (), 0)
    with pytest.raises(SystemExit):
        run.park(1)


def test_without_tessera_an_error_is_the_programs_own() -> None:
    with pytest.raises(RuntimeError, match="gloo"), connect({}):
        raise RuntimeError(GLOO_CLOSED)


class DeafAgent:
    """An agent that welcomes and then reads nothing until `listen`."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self.received = bytearray()
        self._line: socket.socket | None = None
        self._greeter = threading.Thread(target=self._greet)
        self._greeter.start()

    def _greet(self) -> None:
        self._line, _ = self._server.accept()
        self._line.makefile("rb", buffering=0).readline()
        welcome = {"term": 1, "generation": 1, "nonce": "a", "resume": None, "skips": [], "stop": None}
        self._line.sendall(json.dumps(welcome).encode() + b"\n")

    def listen(self) -> threading.Thread:
        def read() -> None:
            assert self._line is not None
            while data := self._line.recv(1 << 16):
                self.received.extend(data)

        thread = threading.Thread(target=read)
        thread.start()
        return thread

    def close(self) -> None:
        self._greeter.join()
        assert self._line is not None
        self._line.close()
        self._server.close()


def test_an_agent_that_does_not_read_never_holds_up_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tessera_run.run, "MAX_QUEUED", 50)
    agent = DeafAgent(tmp_path / "agent")
    run = connect({"TESSERA_SOCKET": str(tmp_path / "agent"), "TESSERA_GENERATION": "1"})

    slowest = 0.0
    for step in range(20_000):
        began = time.perf_counter()
        run.step(step, step, 1.0)
        slowest = max(slowest, time.perf_counter() - began)

    listening = agent.listen()
    run.close()
    listening.join(LIMIT_S)
    agent.close()
    told = agent.received.count(b"\n")
    assert run.dropped > 0
    assert told + run.dropped == 20_000
    assert slowest < 5.0


def test_parts_that_did_not_come_with_the_seat_are_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.connect() as run:
        run.commit(5, 50, place.parts(5))
        run.wait_committed(5, LIMIT_S)
        run.rewind(Span(5, 7), "spike")
        eventually(place.node.link.restart_wanted, "the generation ends")
    parts = place.parts(5)
    monkeypatch.setattr(Seating, "_beginning", without_parts(Seating._beginning))
    place.opening = place.node.join()

    with place.connect() as run:
        resume = run.resume()
        assert resume is not None
        assert list(resume.objects) == parts
        assert resume.objects[-1] == resume.objects[0:1][0] == parts[-1]
        with pytest.raises(IndexError):
            resume.objects[len(parts)]


def without_parts(beginning: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """As a seat of a world of thousands, for ranks that had no part."""

    def told(self: Any, place: int) -> Any:
        begun = beginning(self, place)
        return begun.model_copy(update={"given": ()}) if begun is not None else None

    return told
