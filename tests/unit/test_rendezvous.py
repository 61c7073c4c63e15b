"""torchrun's back-end `tessera` without torchrun: what its agent is given, asked and told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.kept_part import Keeps
from tessera_api.messages import StepRecord, VerdictWord
from tessera_api.seat import Seat
from tessera_api.trouble import Trouble, TroubleKind
from tessera_trainer.rendezvous import ExitBarrier, TesseraRendezvous
from tests.unit.live_coordinator import LiveCoordinator, LiveNode, eventually


class Place:
    """A node that has no workers, on a real link; it remembers what it was asked for."""

    def __init__(self, live: LiveNode) -> None:
        self.link = live.link
        self.asked: list[str] = []

    def stop_workers(self) -> None:
        self.asked.append("stop")

    leaving = False

    def clear_workers(self) -> None:
        self.asked.append("clear")

    def prove(self, in_full: bool) -> str:
        self.asked.append("prove in full" if in_full else "prove")
        return "cpu"

    def explain(self, generation: Seat) -> None:
        self.asked.append(f"explain {generation.generation}")

    def keeps(self) -> Keeps:
        return Keeps(7000, ())

    def prepare_workers(self, generation: Seat) -> None:
        self.asked.append(f"prepare {generation.generation}")


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[LiveCoordinator]:
    with LiveCoordinator(tmp_path) as place:
        yield place


@pytest.fixture
def node(coordinator: LiveCoordinator, tmp_path: Path) -> Iterator[Place]:
    with LiveNode(coordinator, "node-0", tmp_path) as live:
        yield Place(live)


def test_a_node_gives_up_its_workers_proves_itself_and_is_told_its_generation(node: Place) -> None:
    handler = TesseraRendezvous(node, "tiny")

    told = handler.next_rendezvous()

    assert node.asked == ["stop", "clear", "prove", "prepare 1"]
    opening = node.link.open
    assert opening is not None
    assert (told.rank, told.world_size) == (0, 1)
    assert told.bootstrap_store_info is not None
    store = told.bootstrap_store_info
    assert store is not None
    assert (store.master_addr, store.master_port) == ("127.0.0.1", opening.store.port)
    assert (handler.num_nodes_waiting(), handler.is_closed(), handler.use_agent_store) == (0, False, True)


def test_a_node_that_was_told_to_end_gives_up_its_workers_and_joins_no_more(node: Place) -> None:
    handler = TesseraRendezvous(node, "tiny")
    handler.next_rendezvous()
    node.asked.clear()
    node.leaving = True

    with pytest.raises(SystemExit) as ended:
        handler.next_rendezvous()

    assert (ended.value.code, node.link.open) == (ExitCode.STOPPED, None)
    assert node.asked == ["stop", "clear", "explain 1"]


def test_a_node_whose_workers_failed_twice_at_one_place_proves_itself_in_full_before_it_is_taken(node: Place) -> None:
    handler = TesseraRendezvous(node, "tiny")
    handler.next_rendezvous()
    for generation in (1, 2):
        step = StepRecord(step=5, tokens=5, loss=1.0, time=0.0)
        node.link.loop.call_soon_threadsafe(node.link.stepped, step, True)
        trouble = Trouble(generation=generation, what=TroubleKind.EXIT, rank=0, place="SIGSEGV", message="no word")
        node.link.report(trouble)
        node.asked.clear()
        handler.next_rendezvous()

    assert node.asked == ["stop", "clear", "explain 2", "prove", "prove in full", "prepare 3"]


def test_workers_that_ended_by_themselves_are_explained_before_the_node_offers_itself_again(node: Place) -> None:
    handler = TesseraRendezvous(node, "tiny")
    handler.next_rendezvous()
    node.asked.clear()

    handler.next_rendezvous()

    # Nobody had said what was wrong here: the coordinator wants a full proof.
    assert node.asked == ["stop", "clear", "explain 1", "prove", "prove in full", "prepare 2"]


def test_the_end_of_the_run_stops_the_workers_and_exits_with_the_runs_code(
    node: Place, coordinator: LiveCoordinator
) -> None:
    handler = TesseraRendezvous(node, "tiny")
    handler.next_rendezvous()
    coordinator.order_stop("Ctrl-C", 0.0)
    eventually(handler.is_closed, "the end")

    assert handler.num_nodes_waiting() == 1
    assert node.asked[-1] == "stop"
    with pytest.raises(SystemExit) as ended:
        handler.next_rendezvous()
    assert ended.value.code == ExitCode.STOPPED
    assert not any(word.startswith("explain") for word in node.asked)


def test_a_node_whose_workers_succeeded_waits_for_the_verdict(node: Place, coordinator: LiveCoordinator) -> None:
    handler = TesseraRendezvous(node, "tiny")
    told = handler.next_rendezvous()
    barrier = told.store

    assert barrier.add("torchelastic/agent/terminal_state/num_members", 1) == 0
    with pytest.raises(SystemExit) as ended:  # the run has ten steps, and none is committed
        barrier.wait(["last_member"])

    assert ended.value.code == ExitCode.TROUBLE
    assert coordinator.event("Ended")["message"].startswith("failed: all trainers ended without an error")


def test_a_torch_that_asks_its_store_for_something_else_is_noticed() -> None:
    barrier = ExitBarrier(lambda: None, lambda: VerdictWord.GO)

    with pytest.raises(NotImplementedError, match="another exit barrier"):
        barrier.add("something/else", 1)
