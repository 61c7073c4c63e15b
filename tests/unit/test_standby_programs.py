"""Two coordinators of one run, as programs: one leads, the other takes over when it is gone, and no node notices more
than a change of who answers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import StepLine
from tessera_api.keys import Ring
from tessera_api.log import Claim, End, Entry, Open, parse_entry
from tessera_api.messages import StatusAnswer, StepRecord, Steps
from tessera_api.orders import Size, StopRun
from tessera_api.run_directory import LOG_PREFIX, RunDirectory
from tessera_api.seat import Seat
from tessera_api.training_run_status import RunPhase, TrainingRunStatus
from tessera_coordinator.client import Address, ControllerClient
from tessera_coordinator.core.succession import SILENCE_SECONDS
from tessera_coordinator.journal import read
from tessera_coordinator.recollection import recollect
from tessera_coordinator.run_log import RunLog
from tessera_operator.keys import ring
from tessera_store import open_store
from tests.unit.key_folders import RUN, SECRET, put_key
from tests.unit.live_coordinator import LIMIT_S, LiveNode, eventually, tell
from tests.unit.operator_world import a_run, a_start

KEYS: Ring = partial(ring, SECRET, RUN, 1, None)
"""The operator's."""
SLOTS = ("c0", "c1")


class Pair:
    """The coordinators c0 and c1 of one run, each with a directory of its own and one storage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = (folder / "storage").as_uri()
        self.ports = (_free_port(), _free_port())
        self.pages = (_free_port(), _free_port())
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, slot: str, peer: int | None = None) -> None:
        """`peer`: another port than that at which the other one listens."""
        place = SLOTS.index(slot)
        directory = RunDirectory(self.folder / slot)
        directory.root.mkdir(exist_ok=True)
        if not directory.keys.exists():
            put_key(directory.root, 1, coordinators=True)
        resolved = a_start(a_run(nodes={"count": 1, "min": 1, "max": 1}))
        directory.run_json.write_bytes(resolved.model_copy(update={"storage": self.storage}).encode())
        command = [sys.executable, "-m", "tessera_coordinator", "--run-directory", str(directory.root)]
        command += ["--listen", f"127.0.0.1:{self.ports[place]}", "--name", f"gpt-{slot}", "--slot", slot]
        command += ["--peer", f"127.0.0.1:{peer or self.ports[1 - place]}"]
        command += ["--metrics", f"127.0.0.1:{self.pages[place]}"]
        with (self.folder / f"{slot}.log").open("ab") as log:
            environment = {**os.environ, "TESSERA_LAST_WORDS": str(self.folder / f"{slot}.words")}
            self.processes[slot] = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, env=environment)

    def kill(self, slot: str) -> None:
        """As a node that loses power does."""
        process = self.processes.pop(slot)
        process.kill()
        process.wait(LIMIT_S)

    def metrics(self, slot: str) -> dict[str, float]:
        """What the coordinator of a slot shows on /metrics, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.pages[SLOTS.index(slot)]}/metrics", timeout=5) as page:
            text = page.read().decode()
        return {
            f"{sample.name}{dict(sorted(sample.labels.items()))}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def log(self) -> list[Entry]:
        store = open_store(self.storage)
        return [parse_entry(store.get(info.name)) for info in store.list(LOG_PREFIX)]

    def leaders(self) -> list[str | None]:
        """Who has claimed the lead, in order."""
        return [entry.slot for entry in self.log() if isinstance(entry, Claim)]

    def opened(self) -> list[Open]:
        return [entry for entry in self.log() if isinstance(entry, Open)]

    def said(self, slot: str) -> str:
        return (self.folder / f"{slot}.log").read_text(encoding="utf-8")

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        eventually(lambda: holds() or None, f"{what}: {[self.said(slot) for slot in self.processes]}")

    def listens(self, slot: str) -> None:
        """Waits until it serves, as the leader or as a standby."""
        self.wait(f"{slot} serves", lambda: self.said(slot).count("on 127.0.0.1") > 0)

    def answer(self, holds: Callable[[StatusAnswer], bool] = lambda answer: True) -> StatusAnswer:
        """What the operator hears of whoever leads, once it `holds`."""

        async def ask() -> StatusAnswer:
            addresses = tuple(Address("127.0.0.1", port) for port in self.ports)
            client = ControllerClient(addresses, KEYS, "operator", question_seconds=0.1)
            heard: asyncio.Future[StatusAnswer] = asyncio.get_running_loop().create_future()
            client.on_status = lambda answer: heard.set_result(answer) if holds(answer) and not heard.done() else None
            talking = asyncio.create_task(client.run())
            try:
                return await heard
            finally:
                talking.cancel()

        return tell(ask())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def both(folder: Path) -> Iterator[Pair]:
    """Both coordinators, c0 in the lead and c1 standing by."""
    pair = Pair(folder)
    try:
        for slot in SLOTS:
            pair.start(slot)
            pair.listens(slot)
        yield pair
    finally:
        for slot in tuple(pair.processes):
            pair.kill(slot)


def test_one_leads_and_the_operator_hears_that_the_other_is_there(tmp_path: Path) -> None:
    with both(tmp_path) as pair:
        said = pair.answer(lambda answer: len(answer.coordinators) > 1)

        assert said.coordinators == ("gpt-c0", "gpt-c1")
        assert pair.leaders() == ["c0"]


def test_who_leads_and_how_the_run_fares_is_shown_to_prometheus(tmp_path: Path) -> None:
    run = "{'run': 'gpt'}"

    def steps(opening: Seat) -> Steps:
        numbers = {"seconds": 0.3, "grad_norm": 1.5, "lr": 1e-3, "tokens_per_second": 5e4}
        record = StepRecord(step=7, tokens=7168, loss=2.5, time=time.time(), numbers=numbers)
        return Steps(generation=opening.generation, records=(record,), sent=time.time())

    with both(tmp_path) as pair, LiveNode(pair.ports, "node-0", tmp_path, KEYS) as node:
        node.link.report(steps(node.join()))
        pair.wait("the step is shown", lambda: f"tessera_run_step{run}" in pair.metrics("c0"))

        shown, standby = pair.metrics("c0"), pair.metrics("c1")
        assert shown["tessera_coordinator_leads{'run': 'gpt'}"] == 1
        assert {name: value for name, value in standby.items() if "_leads" in name} == {
            f"tessera_coordinator_leads{run}": 0
        }
        assert not any(name.startswith("tessera_run_nodes") for name in standby)
        assert (shown[f"tessera_run_step{run}"], shown[f"tessera_run_loss{run}"]) == (7, 2.5)
        assert shown[f"tessera_run_step_seconds_sum{run}"] == 0.3
        assert shown["tessera_run_nodes{'role': 'active', 'run': 'gpt'}"] == 1
        assert shown[f"tessera_run_generation{run}"] == 1

        pair.kill("c0")
        pair.wait("c1 leads", lambda: pair.metrics("c1")[f"tessera_coordinator_leads{run}"] == 1)
        assert pair.metrics("c1")[f"tessera_coordinator_term{run}"] == 2


def test_when_the_leader_is_gone_the_other_leads_and_the_generation_goes_on(tmp_path: Path) -> None:
    with both(tmp_path) as pair, LiveNode(pair.ports, "node-0", tmp_path, KEYS) as node:
        opening = node.join()
        pair.wait("the witness is heard", lambda: "c1" in pair.answer().coordinators[-1])

        pair.kill("c0")
        pair.wait("c1 leads", lambda: pair.leaders() == ["c0", "c1"])

        said = pair.answer(lambda answer: answer.active == ("node-0",))
        assert said.coordinators == ("gpt-c1",)
        assert node.link.open == opening
        assert node.link.restart_wanted() is None
        assert [opened.short_hash() for opened in pair.opened()] == [opening.digest]


def test_no_step_is_lost_with_a_leader_whose_host_is_gone(tmp_path: Path) -> None:
    """It had taken them in, and its disk goes with it: the nodes say them again to whoever leads next."""

    def steps(opening: Seat, number: int) -> Steps:
        record = StepRecord(step=number, tokens=number, loss=2.5, time=time.time())
        return Steps(generation=opening.generation, records=(record,), sent=time.time())

    def known(pair: Pair) -> list[int]:
        records = read(open_store(pair.storage), tmp_path / "nowhere")
        return [record.step for record in records if isinstance(record, StepLine)]

    with both(tmp_path) as pair, LiveNode(pair.ports, "node-0", tmp_path, KEYS) as node:
        opening = node.join()
        pair.wait("the witness is heard", lambda: "c1" in pair.answer().coordinators[-1])
        for number in (1, 2, 3):
            node.link.report(steps(opening, number))
        pair.wait("the steps are heard", lambda: pair.answer().status.get("step") == "3/97")

        pair.kill("c0")
        shutil.rmtree(tmp_path / "c0")
        pair.wait("c1 leads", lambda: pair.leaders() == ["c0", "c1"])
        node.link.report(steps(opening, 4))

        pair.wait("all steps are in the storage", lambda: known(pair) == [1, 2, 3, 4])
        eventually(lambda: not node.link._outbox.unsafe() or None, "then the node forgets them")


def test_a_leader_that_is_restarted_at_once_leads_on(tmp_path: Path) -> None:
    with both(tmp_path) as pair, LiveNode(pair.ports, "node-0", tmp_path, KEYS) as node:
        opening = node.join()

        pair.kill("c0")
        pair.start("c0")

        pair.wait("it leads again", lambda: pair.leaders() == ["c0", "c0"])
        said = pair.answer(lambda answer: answer.active == ("node-0",) and len(answer.coordinators) > 1)
        assert said.coordinators == ("gpt-c0", "gpt-c1")
        assert [opened.short_hash() for opened in pair.opened()] == [opening.digest]


def test_a_leader_that_was_paused_finds_another_in_its_place_and_ends_itself(tmp_path: Path) -> None:
    with both(tmp_path) as pair, LiveNode(pair.ports, "node-0", tmp_path, KEYS) as node:
        opening = node.join()
        paused = pair.processes["c0"]

        paused.send_signal(signal.SIGSTOP)
        pair.wait("c1 leads", lambda: pair.leaders() == ["c0", "c1"])
        pair.answer(lambda answer: answer.active == ("node-0",))
        paused.send_signal(signal.SIGCONT)

        assert paused.wait(LIMIT_S) == ExitCode.SUPERSEDED
        pair.start("c0")
        assert pair.answer(lambda answer: len(answer.coordinators) > 1).coordinators == ("gpt-c1", "gpt-c0")
        assert [opened.short_hash() for opened in pair.opened()] == [opening.digest]
        assert pair.leaders() == ["c0", "c1"]


def test_a_standby_that_cannot_hear_the_leader_does_not_lead_while_the_nodes_hear_it(tmp_path: Path) -> None:
    with both(tmp_path) as pair, LiveNode(pair.ports, "node-0", tmp_path, KEYS) as node:
        node.join()
        pair.kill("c1")
        pair.start("c1", peer=_free_port())
        pair.wait("it hears the node", lambda: pair.said("c1").count("standing by") == 2)

        until = time.monotonic() + 3 * SILENCE_SECONDS
        eventually(lambda: time.monotonic() > until or len(pair.leaders()) > 1, "another leader, or long enough")
        assert pair.leaders() == ["c0"]


def test_the_second_leads_a_run_whose_first_never_came(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    try:
        pair.start("c1")
        with LiveNode(pair.ports, "node-0", tmp_path, KEYS) as node:
            seat = node.join()
            assert (seat.place, seat.nodes) == (0, 1)
        assert pair.leaders() == ["c1"]
    finally:
        pair.kill("c1")


def test_a_standby_ends_with_the_run(tmp_path: Path) -> None:
    with both(tmp_path) as pair:
        log = RunLog(open_store(pair.storage))
        log.read_all()
        log.term = log.history.term
        log.append(End(term=log.term, reason="complete", message="all steps are done", time=0.0))

        assert pair.processes["c1"].wait(LIMIT_S) == ExitCode.DONE
        left = TrainingRunStatus.model_validate_json((tmp_path / "c1.words").read_bytes())
        assert (left.phase, left.step) == (RunPhase.SUCCEEDED, "0/97")


def test_a_stop_of_the_run_reaches_whoever_leads(tmp_path: Path) -> None:
    async def stop(pair: Pair) -> str:
        addresses = tuple(Address("127.0.0.1", port) for port in reversed(pair.ports))
        client = ControllerClient(addresses, KEYS, "operator")
        client.stop(StopRun(reason="the run is suspended", deadline_seconds=5.0))
        talking = asyncio.create_task(client.run())
        try:
            return await client.closed
        finally:
            talking.cancel()

    with both(tmp_path) as pair:
        assert tell(stop(pair)) == "stopped: the run is suspended"
        assert pair.processes["c0"].wait(LIMIT_S) == ExitCode.STOPPED
        left = TrainingRunStatus.model_validate_json((tmp_path / "c0.words").read_bytes())
        assert left.phase is RunPhase.STOPPED


def test_a_run_that_was_told_to_have_another_number_of_nodes_keeps_it_under_another_leader(tmp_path: Path) -> None:
    async def order(pair: Pair, size: Size) -> None:
        client = ControllerClient(tuple(Address("127.0.0.1", port) for port in pair.ports), KEYS, "operator", 0.1)
        client.order(size)
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.on_status = lambda answer: (
            heard.set_result(None) if answer.status["nodes"] == "0/4" and not heard.done() else None
        )
        talking = asyncio.create_task(client.run())
        try:
            await heard
        finally:
            talking.cancel()

    with both(tmp_path) as pair:
        tell(order(pair, Size(count=4, min=4)))
        store = open_store(pair.storage)
        pair.wait("it is shipped", lambda: recollect(read(store, tmp_path / "nowhere")).size is not None)
        pair.kill("c1")
        shutil.rmtree(tmp_path / "c0", ignore_errors=True)  # the journal that was shipped is all there is
        pair.kill("c0")
        pair.start("c0")
        assert pair.answer(lambda answer: answer.status["nodes"] == "0/4").coordinators == ("gpt-c0",)
