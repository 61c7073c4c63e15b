"""The coordinator's server on loopback: who is let in, who loses its stream, and what it survives. A run's life is in
`test_coordinator_run`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import tessera_coordinator.server
from tessera_api.keys import only
from tessera_api.log import Claim, Open
from tessera_api.messages import (
    BEAT_SECONDS,
    PROTOCOL,
    Ack,
    Assign,
    Beat,
    Hello,
    Join,
    Note,
    Restart,
    Role,
    StatusAnswer,
    StepRecord,
    Steps,
    Welcome,
)
from tessera_api.orders import Reaped, StatusQuestion, StopRun
from tessera_api.record import Record
from tessera_api.seat import Seat
from tessera_api.stream import StreamClosed
from tessera_coordinator.client import Address, begin
from tessera_coordinator.core.seating import Seating
from tessera_coordinator.server import ACK_SECONDS, TermSeen
from tessera_trainer.node_link import SILENCE_SECONDS
from tests.unit.live_coordinator import FACTS, KEY, LIMIT_S, FakePeer, LiveCoordinator, eventually, holds, tell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def steps(opening: Seat, *numbers: int, loss: float = 2.5) -> Steps:
    records = tuple(StepRecord(step=step, tokens=step, loss=loss, time=float(step)) for step in numbers)
    return Steps(generation=opening.generation, records=records)


# ---- who is let in --------------------------------------------------------------------------------------------------


def test_a_node_that_joins_is_assigned_the_generation_that_stands_in_the_log(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> Assign:
            agent = await FakePeer.connect(place, "node-0", host="10.0.0.7", processes=4)
            agent.say(Join(sequence=3, store_port=5000, fingerprint="cpu", processes=FACTS))
            return await agent.hear(Assign)

        assign = tell(story())

        claim, opening = place.log()
    assert isinstance(claim, Claim)
    assert isinstance(opening, Open)
    assert assign == Assign(seat=Seating(opening).seat("node-0"), join=3)
    assert [(member.node, member.processes) for member in opening.members] == [("node-0", 4)]
    assert (opening.store.host, opening.store.port, opening.term) == ("10.0.0.7", 5000, claim.term)


def test_another_runs_key_is_refused_and_the_coordinator_goes_on(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            stream = await FakePeer.open(place, b"x" * 32)
            stream.send(Hello(role=Role.AGENT, node="node-0", incarnation="i1"))
            with pytest.raises(StreamClosed):
                await stream.receive(LIMIT_S)
            await (await FakePeer.connect(place, "node-0")).join()

        tell(story())


CONTROL = b"c" * 32


@pytest.mark.parametrize("role", [Role.CONTROLLER, Role.STANDBY])
@pytest.mark.parametrize("control", [None, b"x" * 32], ids=["the run's key alone", "another control key"])
def test_who_holds_the_runs_key_alone_may_not_speak_for_operator_or_coordinator(
    folder: Path, role: Role, control: bytes | None
) -> None:
    with LiveCoordinator(folder, control=CONTROL) as place:

        async def story() -> None:
            hello = Hello(role=role, node="n", incarnation="i")
            with pytest.raises(StreamClosed):
                await begin(Address("127.0.0.1", place.port), only(KEY, control), hello)

        tell(story())


def test_a_proof_is_good_on_its_own_stream_alone(folder: Path) -> None:
    with LiveCoordinator(folder, control=CONTROL) as place:

        async def story() -> None:
            where, hello = Address("127.0.0.1", place.port), Hello(role=Role.CONTROLLER, node="n", incarnation="i")
            stream, welcome = await begin(where, only(KEY, CONTROL), hello)
            assert welcome.run
            other = await FakePeer.open(place)
            other.send(hello.model_copy(update={"proof": stream.proof()}))
            with pytest.raises(StreamClosed):
                await other.receive(LIMIT_S)

        tell(story())


def test_nodes_need_no_control_key(folder: Path) -> None:
    with LiveCoordinator(folder, control=CONTROL) as place:

        async def story() -> Seat:
            return await (await FakePeer.connect(place, "node-0")).join()

        assert tell(story()).nodes == 1


@pytest.mark.parametrize("protocol", [PROTOCOL, PROTOCOL - 1])
def test_this_protocol_and_the_one_before_are_served(folder: Path, protocol: int) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> Seat:
            return await (await FakePeer.connect(place, "node-0", protocol=protocol)).join()

        assert tell(story()).generation == 1


@pytest.mark.parametrize("protocol", [PROTOCOL + 1, PROTOCOL - 2, 99])
def test_another_protocol_is_refused(folder: Path, protocol: int) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            stream = await FakePeer.open(place)
            stream.send(Hello(role=Role.AGENT, node="node-0", incarnation="i1", protocol=protocol))
            with pytest.raises(StreamClosed):
                await stream.receive(LIMIT_S)

        tell(story())
        assert place.events("NodeSeen") == []


@pytest.mark.parametrize(
    "message",
    [Hello(role=Role.AGENT, node="n", incarnation="i"), StopRun(reason="x", deadline_seconds=1), StatusQuestion()]
    + [Reaped(node="node-1", agent_pid=1, code=0)],
    ids=lambda message: type(message).__name__,
)
def test_an_agent_that_says_what_only_others_may_say_loses_its_stream(folder: Path, message: Record) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            agent.say(message)
            await agent.until_closed()

        tell(story())
        assert place.events("StopOrdered") == []


def test_a_controller_that_speaks_as_an_agent_loses_its_stream(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            controller = await FakePeer.connect(place, "cli", Role.CONTROLLER)
            controller.say(Beat(processes=FACTS))
            await controller.until_closed()

        tell(story())


def test_a_stream_must_begin_with_hello(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            stream = await FakePeer.open(place)
            stream.send(StopRun(reason="x", deadline_seconds=0))
            with pytest.raises(StreamClosed):
                await stream.receive(LIMIT_S)

        tell(story())
        assert place.events("StopOrdered") == []


def test_a_stream_that_says_what_is_no_message_is_closed(folder: Path) -> None:
    class Tea(Record):
        kind: str = "tea"

    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            agent.say(Tea())
            await agent.until_closed()
            await (await FakePeer.connect(place, "node-1")).join()

        tell(story())


def test_beats_are_answered_often_enough_for_an_agent_to_know_that_the_coordinator_lives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tessera_coordinator.server, "ACK_SECONDS", 0.05)
    with LiveCoordinator(folder) as place:

        async def story() -> int:
            agent = await FakePeer.connect(place, "node-0")
            began, beats = time.monotonic(), 0
            for _ in range(3):
                answer = asyncio.ensure_future(agent.hear(Ack))
                while not answer.done():
                    agent.say(Beat(processes=FACTS))
                    beats += 1
                    await asyncio.wait([answer], timeout=0.01)
                assert answer.result() == Ack(sequence=0)
            assert time.monotonic() - began >= 2 * 0.05
            return beats

        assert tell(story()) > 3
    assert ACK_SECONDS + BEAT_SECONDS < SILENCE_SECONDS


def test_a_stream_on_which_nothing_comes_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tessera_coordinator.server, "IDLE_SECONDS", 0.5)
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            silent, alive = await FakePeer.connect(place, "node-0"), await FakePeer.connect(place, "node-1")
            closed = asyncio.ensure_future(silent.until_closed())
            while not closed.done():
                alive.say(Beat(processes=FACTS))
                await asyncio.wait([closed], timeout=0.1)
            alive.say(Note(name="Alive", message="still"), 9)
            while (await alive.hear(Ack)).sequence != 9:
                pass

        tell(story())


def test_a_stream_that_says_too_much_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tessera_coordinator.server, "MAX_MESSAGES_PER_SECOND", 5)
    with LiveCoordinator(folder) as place:

        async def story() -> int:
            agent = await FakePeer.connect(place, "node-0")
            answers = 0
            with suppress(StreamClosed):
                while answers < 200:
                    agent.say(Note(name="Noise", message="again"), answers + 1)
                    await agent.hear(Ack)
                    answers += 1
            return answers

        assert 50 <= tell(story()) < 150


def test_a_nodes_newer_stream_replaces_its_older_one_and_the_node_is_not_lost(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            first = await FakePeer.connect(place, "node-0")
            opening = await first.join()
            second = await FakePeer.connect(place, "node-0", holding=opening)
            await first.until_closed()
            second.say(steps(opening, 1), 1)
            await second.hear(Ack)

        tell(story())
        place.metrics(1)
        assert place.events("NodeLost") == []


def test_an_agent_that_obeyed_a_higher_term_ends_this_coordinator(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            stream = await FakePeer.open(place)
            stream.send(Hello(role=Role.AGENT, node="node-0", incarnation="i1", term_seen=99))
            with pytest.raises(StreamClosed):
                await stream.receive(LIMIT_S)

        tell(story())
        place.ended()
        assert isinstance(place.error, TermSeen)
        assert "99" in str(place.error)


# ---- what it survives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e300, -1e-300])
def test_a_loss_beyond_all_bounds_is_written_and_shown(folder: Path, loss: float) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> StatusAnswer:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(steps(opening, 1, loss=loss), 1)
            await agent.hear(Ack)
            controller = await FakePeer.connect(place, "cli", Role.CONTROLLER)
            controller.say(StatusQuestion())
            return await controller.hear(StatusAnswer)

        answer = tell(story())
        assert answer.status["step"] == "1/10"
        assert place.metrics(1)[0]["step"] == 1
        assert eventually(place.directory.status.exists, "status.json")


def test_live_files_that_cannot_be_written_do_not_stop_the_run(folder: Path) -> None:
    for name in ("status.json", "nodes.json", "incidents/0001.json"):
        (folder / name).mkdir(parents=True)
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(steps(opening, 1), 1)
            await agent.hear(Ack)
            agent.stream.close()
            controller = await FakePeer.connect(place, "cli", Role.CONTROLLER)
            controller.say(Reaped(node="node-0", agent_pid=FACTS.agent_pid, code=-9))
            again = await FakePeer.connect(place, "node-1")
            assert (await again.join()).generation == 2

        tell(story())
        assert place.error is None


def test_what_a_trainer_says_for_people_is_an_event(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            agent.say(Note(name="Warm", message="forked", numbers={"seconds": 0.5}), 1)
            await agent.hear(Ack)

        tell(story())
        event: dict[str, Any] = place.event("Note")
        assert (event["node"], event["message"], event["numbers"]) == ("node-0", "Warm: forked", {"seconds": 0.5})


def test_an_agent_that_returns_with_an_older_generation_is_told_to_start_anew(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> tuple[Welcome, Restart]:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            stream = await FakePeer.open(place)
            late = FakePeer(stream, "node-1")
            old = opening.model_copy(update={"digest": "00ff"})
            late.say(Hello(role=Role.AGENT, node="node-1", incarnation="i1", holding=holds(old)))
            return await late.hear(Welcome), await late.hear(Restart)

        welcome, restart = tell(story())
        assert (welcome.run, restart.generation) == ("tiny", 1)


def test_every_controller_is_told_the_last_status_unasked(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> StatusAnswer:
            listening = await FakePeer.connect(place, "operator", Role.CONTROLLER)
            ordering = await FakePeer.connect(place, "cli", Role.CONTROLLER)
            ordering.say(StopRun(reason="enough", deadline_seconds=60))
            return await listening.hear(StatusAnswer)

        answer = tell(story())
        assert answer.closed == "stopped: enough"
        assert answer.status["phase"] == "Stopped"
