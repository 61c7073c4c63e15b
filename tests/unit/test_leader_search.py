"""An agent's second stream: it is told from a dead one, and follows whoever takes the lead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tessera_api.keys import Keys, only
from tessera_api.messages import FROM_AGENT, Ack, Hello, LeaderSilence, Role, Standby, Welcome, understood
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.wire import Side
from tessera_trainer import leader_search
from tessera_trainer.leader_search import LeaderSearch
from tests.unit.live_coordinator import KEY, LIMIT_S, tell


class Coordinator:
    """One that says what a test wants; `first` is its answer to every hello, `acks` whether it answers witnesses."""

    def __init__(self, first: Standby | Welcome, acks: bool = True) -> None:
        self.first, self.acks = first, acks
        self.hellos: list[Hello] = []
        self.silences: list[float] = []
        self.streams: list[MessageStream] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Coordinator]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(StreamClosed):
            stream = await MessageStream.begin(reader, writer, Keys(KEY), Side.SERVER, LIMIT_S)
            hello = FROM_AGENT.validate_python((await stream.receive(LIMIT_S)).body)
            assert isinstance(hello, Hello)
            self.hellos.append(hello)
            self.streams.append(stream)
            stream.send(self.first)
            while True:
                message = FROM_AGENT.validate_python((await stream.receive(LIMIT_S)).body)
                if isinstance(message, LeaderSilence):
                    self.silences.append(message.seconds)
                if self.acks:
                    stream.send(Ack(sequence=0))


class Agent:
    """A search whose stream to the leader only listens."""

    def __init__(self, *coordinators: Coordinator) -> None:
        endpoints = tuple(("127.0.0.1", coordinator.port) for coordinator in coordinators)
        self.terms: list[int] = []
        self.search = LeaderSearch(endpoints, only(KEY), self._talk, self._hello)

    def _hello(self, role: Role) -> Hello:
        return Hello(role=role, node="node-0", incarnation="i1", term_seen=max(self.terms, default=0))

    async def _talk(self, stream: MessageStream) -> None:
        stream.send(self._hello(Role.AGENT))
        welcome = understood((await stream.receive(LIMIT_S)).body)
        if not isinstance(welcome, Welcome):
            raise StreamClosed("it does not lead")
        self.terms.append(welcome.term)
        self.search.welcomed(welcome.term)
        while True:
            await stream.receive(LIMIT_S)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Agent]:
        tasks = [asyncio.create_task(work()) for work in self.search.works()]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: object, what: str) -> None:
    assert callable(holds)
    for _ in range(int(LIMIT_S * 50)):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {LIMIT_S:.0f} s: {what}")


def roles(coordinator: Coordinator) -> list[Role]:
    return [hello.role for hello in coordinator.hellos]


def test_the_leader_gets_one_stream_and_the_standby_a_witness() -> None:
    async def story() -> None:
        leader, standby = Coordinator(Welcome(run="gpt", term=1)), Coordinator(Standby(run="gpt"))
        async with leader.listening(), standby.listening(), Agent(leader, standby).looking():
            await until(lambda: len(standby.silences) >= 2, "the standby is told twice")
            assert roles(standby) == [Role.WITNESS]
            assert roles(leader).count(Role.AGENT) == 1

    tell(story())


def test_a_witness_of_a_standby_that_answers_no_more_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that lost power closes nothing: only silence tells."""
    monkeypatch.setattr(leader_search, "STANDBY_SILENCE_SECONDS", 1.2)

    async def story() -> None:
        leader = Coordinator(Welcome(run="gpt", term=1))
        dead = Coordinator(Standby(run="gpt"), acks=False)
        async with leader.listening(), dead.listening(), Agent(leader, dead).looking():
            await until(lambda: len(dead.hellos) >= 2, "a second witness")

    tell(story())


def test_a_standby_that_takes_the_lead_is_followed_at_once() -> None:
    async def story() -> None:
        leader, standby = Coordinator(Welcome(run="gpt", term=1)), Coordinator(Standby(run="gpt"))
        async with leader.listening(), standby.listening(), Agent(leader, standby).looking() as agent:
            await until(lambda: agent.terms == [1] and bool(standby.silences), "the leader leads, the standby hears")
            standby.first = Welcome(run="gpt", term=2)
            standby.streams[0].send(Welcome(run="gpt", term=2), 2)

            await until(lambda: agent.terms == [1, 2], "the new leader has the agent")
            assert roles(standby) == [Role.WITNESS, Role.AGENT]

    tell(story())


def test_an_agent_of_a_single_coordinator_has_no_second_stream() -> None:
    async def story() -> None:
        only = Coordinator(Welcome(run="gpt", term=1))
        async with only.listening():
            assert len(Agent(only).search.works()) == 1

    tell(story())
