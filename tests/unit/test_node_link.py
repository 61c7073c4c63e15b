"""The agent's link: it finds the coordinator again for ever, repeats what is not safe, outlives whatever it hears."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.log import Commit, Open, StoreAddress
from tessera_api.messages import (
    FROM_AGENT,
    Ack,
    Assign,
    Beat,
    Closed,
    Finished,
    FromAgent,
    Hello,
    Join,
    Note,
    Part,
    Processes,
    Restart,
    Role,
    StepRecord,
    Steps,
    Verdict,
    VerdictWord,
    Welcome,
)
from tessera_api.record import Record
from tessera_api.seat import Seat
from tessera_api.stream import MessageStream
from tessera_api.wire import Side
from tessera_coordinator.core.seating import Seating
from tessera_trainer.identity import Identity
from tessera_trainer.node_link import NodeLink, RunClosed
from tessera_trainer.rendezvous import ExitBarrier
from tests.unit.live_coordinator import (
    FACTS,
    LIMIT_S,
    RING,
    LiveCoordinator,
    LiveNode,
    eventually,
    part,
    tell,
)

SEAT = Seat(
    term=3, generation=4, digest="00ff", nonce="ab", place=0, nodes=1, ranks=1, store=StoreAddress(host="h", port=1)
)


class Script:
    """A coordinator that a test plays itself, one stream after the other, on a port that stays the same."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._streams: asyncio.Queue[MessageStream] = asyncio.Queue()

    async def __aenter__(self) -> Script:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams.put_nowait(await MessageStream.begin(reader, writer, RING()[0], Side.SERVER, LIMIT_S))

    async def stream(self, term: int = 3) -> tuple[MessageStream, Hello]:
        """The next stream that the link opens, welcomed."""
        stream = await self._streams.get()
        hello = Hello.model_validate((await stream.receive(LIMIT_S)).body)
        stream.send(Welcome(run="tiny", term=term), term)
        return stream, hello


async def heard(stream: MessageStream, kind: type[Record]) -> tuple[int, FromAgent]:
    """The next message of that kind, with its number."""
    while True:
        envelope = await stream.receive(LIMIT_S)
        message: FromAgent = FROM_AGENT.validate_python(envelope.body)
        if isinstance(message, kind):
            return envelope.sequence, message


def scripted(story: Callable[[Script, NodeLink], Any], facts: Callable[[], Processes] = lambda: FACTS) -> None:
    """Runs a story between a played coordinator and a real link."""

    async def both() -> None:
        async with Script() as script:
            identity = Identity("node-0", "i1", "127.0.0.1", 1)
            link = NodeLink(identity, RING, (("127.0.0.1", script.port),), facts, lambda _: None)
            link.start()
            try:
                await story(script, link)
            finally:
                await asyncio.to_thread(_stop, link)

    tell(both())


def _stop(link: NodeLink) -> None:
    node = object.__new__(LiveNode)
    node.link = link
    node.stop()


def test_a_node_gets_its_generation_from_a_real_coordinator(tmp_path: Path) -> None:
    with LiveCoordinator(tmp_path) as place, LiveNode(place, "node-0", tmp_path) as node:
        opening = node.join()

        assert (opening, node.link.open) == (Seating(place.entry(Open)).seat("node-0"), opening)
        assert node.link.restart_wanted() is None


def test_what_is_not_acknowledged_is_said_again_on_a_new_stream_under_its_number(tmp_path: Path) -> None:
    async def story(script: Script, link: NodeLink) -> None:
        link.report(Note(name="a", message="first"))
        link.report(Note(name="b", message="second"))
        stream, _ = await script.stream()
        one, two = await heard(stream, Note), await heard(stream, Note)
        stream.send(Ack(sequence=one[0]))
        await asyncio.to_thread(eventually, lambda: len(link._outbox.unsafe()) == 1, "one is acknowledged")
        stream.close()
        stream, _ = await script.stream()
        assert await heard(stream, Note) == two

    scripted(story)


def test_an_offer_stands_on_every_new_stream_until_it_is_answered() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(link.next_generation, 5000, "cpu"))
        stream, hello = await script.stream()
        first = await heard(stream, Join)
        stream.close()
        stream, again = await script.stream()
        assert await heard(stream, Join) == first
        stream.send(Assign(seat=SEAT, join=99))
        stream.send(Assign(seat=SEAT, join=1))
        assert await waiting == SEAT
        stream.close()
        _, holding = await script.stream()
        assert (hello.holding, again.holding) == (None, None)
        assert holding.holding is not None
        assert (holding.holding.generation, holding.holding.digest) == (4, SEAT.digest)
        assert (hello.term_seen, again.term_seen, holding.role) == (0, 3, Role.AGENT)

    scripted(story)


def test_a_coordinator_of_an_older_term_is_not_obeyed() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(link.next_generation, 5000, "cpu"))
        stream, _ = await script.stream(term=5)
        await heard(stream, Join)
        stream.close()
        await script.stream(term=4)
        stream, hello = await script.stream(term=5)
        await heard(stream, Join)
        stream.send(Assign(seat=SEAT, join=1))
        assert (await waiting, hello.term_seen) == (SEAT, 5)

    scripted(story)


async def _assigned(script: Script, link: NodeLink) -> MessageStream:
    waiting = asyncio.create_task(asyncio.to_thread(link.next_generation, 5000, "cpu"))
    stream, _ = await script.stream()
    await heard(stream, Join)
    stream.send(Assign(seat=SEAT, join=1))
    assert await waiting == SEAT
    return stream


def test_only_its_own_generation_can_be_ended_and_the_first_reason_stands() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        stream = await _assigned(script, link)
        for generation, reason in ((3, "another one's"), (4, "node-1 is lost"), (4, "later")):
            stream.send(Restart(generation=generation, reason=reason))
        await asyncio.to_thread(eventually, link.restart_wanted, "a restart is wanted")
        assert link.restart_wanted() == "node-1 is lost"
        await asyncio.to_thread(link.leaving)
        assert (link.restart_wanted(), link.open) == (None, None)

    scripted(story)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Verdict(generation=4, say=VerdictWord.GO), VerdictWord.GO),
        (Verdict(generation=4, say=VerdictWord.REDO), VerdictWord.REDO),
        (Restart(generation=4, reason="x"), VerdictWord.REDO),
        (Closed(reason="complete", exit_code=ExitCode.DONE), VerdictWord.GO),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Record) else str(value),
)
def test_a_node_that_is_done_waits_for_the_verdict(message: Record, expected: VerdictWord) -> None:
    async def story(script: Script, link: NodeLink) -> None:
        stream = await _assigned(script, link)
        waiting = asyncio.create_task(asyncio.to_thread(link.verdict))
        stream.send(Verdict(generation=3, say=VerdictWord.GO))
        stream.send(message)
        assert await waiting is expected

    scripted(story)


def test_a_node_that_is_done_leaves_a_run_that_was_stopped_with_its_exit_code() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        stream = await _assigned(script, link)
        barrier = ExitBarrier(lambda: link.finished(4), link.verdict)
        barrier.add("terminal_state", 1)
        waiting = asyncio.create_task(asyncio.to_thread(_code_of, barrier))
        await heard(stream, Finished)
        stream.send(Closed(reason="stopped", exit_code=ExitCode.STOPPED))
        assert await waiting == ExitCode.STOPPED

    scripted(story)


def _code_of(barrier: ExitBarrier) -> object:
    with pytest.raises(SystemExit) as ended:
        barrier.wait(["last_member"])
    return ended.value.code


def test_a_node_that_is_done_says_so_to_every_new_coordinator() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        stream = await _assigned(script, link)
        link.finished(4)
        number, _ = await heard(stream, Finished)
        stream.send(Ack(sequence=number))
        stream.close()
        _, hello = await script.stream()
        assert hello.holding is not None
        assert (hello.holding.generation, hello.holding.finished) == (4, True)

    scripted(story)


def test_the_end_of_the_run_ends_the_wait_for_a_generation() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        waiting = asyncio.create_task(asyncio.to_thread(link.next_generation, 5000, "cpu"))
        stream, _ = await script.stream()
        stream.send(Closed(reason="stopped: Ctrl-C", exit_code=ExitCode.STOPPED))
        with pytest.raises(RunClosed, match="stopped: Ctrl-C") as closed:
            await waiting
        assert closed.value.exit_code == ExitCode.STOPPED
        assert link.closed is not None

    scripted(story)


def test_a_message_that_this_version_does_not_know_is_passed_over() -> None:
    class Tea(Record):
        kind: str = "tea"

    async def story(script: Script, link: NodeLink) -> None:
        stream = await _assigned(script, link)
        stream.send(Tea())
        stream.send(Restart(generation=4, reason="still heard"))
        await asyncio.to_thread(eventually, link.restart_wanted, "a restart is wanted")

    scripted(story)


def test_a_first_word_that_is_no_welcome_leads_to_another_try() -> None:
    class Tea(Record):
        kind: str = "tea"

    async def story(script: Script, link: NodeLink) -> None:
        first = await script._streams.get()
        first.send(Tea())
        second = await script._streams.get()
        second.send(Ack(sequence=1))
        await script.stream()

    scripted(story)


def test_facts_that_cannot_be_read_for_a_moment_cost_a_beat_and_not_all_of_them() -> None:
    troubles = iter((OSError("a process vanished while it was looked at"),))

    def facts() -> Processes:
        for trouble in troubles:
            raise trouble
        return FACTS

    async def story(script: Script, link: NodeLink) -> None:
        stream, _ = await script.stream()
        await heard(stream, Beat)

    scripted(story, facts)


def test_the_processes_are_said_once_on_each_stream() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        for _ in range(2):
            stream, _hello = await script.stream()
            beats = [(await heard(stream, Beat))[1] for _ in range(2)]
            assert [beat.processes for beat in beats if isinstance(beat, Beat)] == [FACTS, None]
            stream.close()

    scripted(story)


def test_steps_that_wait_are_reported_before_the_generation_is_left() -> None:
    async def story(script: Script, link: NodeLink) -> None:
        stream = await _assigned(script, link)
        record = StepRecord(step=7, tokens=1, loss=1.0, time=1.0)
        link.loop.call_soon_threadsafe(link.stepped, record, True)
        await asyncio.to_thread(link.leaving)
        said = (await heard(stream, Steps))[1]
        assert isinstance(said, Steps)
        assert (said.generation, said.records, said.sent > 1e9) == (4, (record,), True)

    scripted(story)


def test_a_coordinator_that_answers_nothing_is_looked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera_trainer.node_link.SILENCE_SECONDS", 0.2)

    async def story(script: Script, link: NodeLink) -> None:
        await script.stream()
        _, hello = await script.stream()
        assert hello.term_seen == 3

    scripted(story)


def test_a_part_reaches_the_log_through_a_restart_of_the_coordinator(tmp_path: Path) -> None:
    """Said to nobody at first: the coordinator is away."""

    async def story(script: Script, link: NodeLink) -> None:
        stream = await _assigned(script, link)
        stream.close()
        said = part(SEAT, 0, 5)
        link.report(said)
        stream, _ = await script.stream()
        assert (await heard(stream, Part))[1] == said

    scripted(story)


def test_a_node_that_leaves_says_so(tmp_path: Path) -> None:
    with LiveCoordinator(tmp_path) as place, LiveNode(place, "node-0", tmp_path) as node:
        node.join()

        node.link.farewell("drained")

        assert place.event("NodeLeft")["message"] == "drained"


def test_without_a_coordinator_a_farewell_ends_within_its_limit() -> None:
    link = NodeLink(Identity("node-0", "i1", "127.0.0.1", 1), RING, (("127.0.0.1", 9),), lambda: FACTS, lambda _: None)
    link.start()

    link.farewell("nobody there", seconds=1.0)

    _stop(link)


def test_two_nodes_make_one_generation_and_both_commit(tmp_path: Path) -> None:
    with (
        LiveCoordinator(tmp_path, count=2, least=2) as place,
        LiveNode(place, "node-0", tmp_path) as one,
        LiveNode(place, "node-1", tmp_path) as two,
    ):
        got: list[Seat] = []
        other = threading.Thread(target=lambda: got.append(two.join()))
        other.start()
        opening = one.join()
        other.join(LIMIT_S)

        for node in (one, two):
            assert node.link.open is not None
            node.link.report(part(opening, node.link.open.place, 5))

        assert [{seat.place, opening.place} for seat in got] == [{0, 1}]
        assert [seat.digest for seat in got] == [opening.digest]
        assert len(place.entry(Commit).objects) == 2
        for node in (one, two):
            eventually(lambda node=node: not node.link._outbox.unsafe(), "parts are forgotten")  # type: ignore[misc]
