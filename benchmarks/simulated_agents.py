"""Agents without nodes: thousands of them on one event loop, each with its own stream to a real coordinator.

They say what `node_link` says: greeting, hello with what they hold, join, a beat each second, steps from the node of
rank 0, joins again when they are told that their generation is over. What must stay true: every frame is authenticated
and in order, as the real ones are; a node's process id, incarnation and offers are its own.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.messages import BEAT_SECONDS
from tessera_api.wire import HEADER_BYTES, HELLO_BYTES, NONCE_BYTES, Channel, Envelope, Side, greeting, read_greeting

STEP_SECONDS = 1.0
LOOK_SECONDS = 0.01
DIGEST = "0" * 64
AT_ONCE = 400
"""Connections that are being made at one time: what a listener's queue holds."""


class Agent(asyncio.Protocol):
    """One node."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.number, self.name = crowd, number, f"node-{number:05}"
        self.incarnation = secrets.token_hex(8)
        self.seat: dict[str, Any] | None = None
        self.left: dict[str, Any] | None = None
        self.joins = self.reports = 0
        self.welcomed = self.silent = self.parked = False
        self.step = -1
        self._transport: asyncio.Transport | None = None
        self._channel: Channel | None = None
        self._data = bytearray()
        self._nonce = b""
        self._facts: dict[str, Any] | None = None

    # ---- the stream ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets at once."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._channel, self._data = transport, None, bytearray()
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        transport.write(greeting(self._nonce))

    def data_received(self, data: bytes) -> None:
        """Whole frames are taken, the rest waits."""
        if self.silent:
            return
        self._data += data
        if self._channel is None:
            if len(self._data) < HELLO_BYTES:
                return
            theirs = read_greeting(bytes(self._data[:HELLO_BYTES]))
            del self._data[:HELLO_BYTES]
            self._channel = Channel(self.crowd.key, theirs, self._nonce, Side.CLIENT)
            self._hello()
        while len(self._data) >= HEADER_BYTES:
            length = self._channel.body_length(bytes(self._data[:HEADER_BYTES]))
            if len(self._data) < HEADER_BYTES + length:
                return
            header, body = bytes(self._data[:HEADER_BYTES]), bytes(self._data[HEADER_BYTES : HEADER_BYTES + length])
            del self._data[: HEADER_BYTES + length]
            self._hear(self._channel.open(header, body).body)

    def connection_lost(self, error: Exception | None) -> None:
        """Until it connects anew."""
        self._transport, self._channel, self.welcomed = None, None, False

    @property
    def connected(self) -> bool:
        """Whether it has a stream."""
        return self._transport is not None

    def abort(self) -> None:
        """Its process is gone."""
        if self._transport is not None:
            self._transport.abort()
        self._transport, self._channel, self.welcomed = None, None, False

    def say(self, body: dict[str, Any], number: int = 0) -> None:
        """A message, where there is a stream."""
        if self._transport is None or self._channel is None:
            return
        generation = self.seat["generation"] if self.seat else 0
        self._transport.write(self._channel.seal(Envelope(self.crowd.term, generation, number, body)))

    # ---- what it says ----------------------------------------------------------------------------------------------

    def _hello(self) -> None:
        known = {"lived": time.monotonic() - self.crowd.began, "known": 0.0, "term_seen": self.crowd.term}
        hello = {"kind": "hello", "role": "agent", "node": self.name, "incarnation": self.incarnation, **known}
        self.say({**hello, "holding": holding(self.seat)} if self.seat else hello)

    def join(self) -> None:
        """It offers itself."""
        self.joins += 1
        self._join()

    def _join(self) -> None:
        self.seat, self.step = None, -1
        offer = {"kind": "join", "sequence": self.joins, "store_port": 5000, "fingerprint": "cpu"}
        offer |= {"processes": self.facts(), "keeper_port": 7000, "kept": []}
        self.say({**offer, "left": self.left} if self.left else offer)

    def facts(self) -> dict[str, Any]:
        """Its processes."""
        return {"agent_pid": self.number + 1, "worker_pids": [self.number + 1], "sessions": [self.number + 1]}

    def beat(self, now: float) -> None:
        """A sign of life."""
        if not self.welcomed or self.silent:
            return
        said: dict[str, Any] = {"kind": "beat", "phase": "parked" if self.parked else "train"}
        if self.seat is not None:
            said |= {"generation": self.seat["generation"], "step": self.step, "units": self.step + 1}
            if self.step >= 0:
                said["step_age"] = now - self.crowd.stepped_at
        if self._facts is None:
            said["processes"] = self._facts = self.facts()
        self.say(said)

    def tell_step(self) -> None:
        """Rank 0's node reports."""
        if self.seat is None:
            return
        self.reports += 1
        now = time.time()
        record = {"step": self.step, "tokens": self.step * 64, "loss": 2.5, "time": now, "numbers": {"seconds": 1.0}}
        self.say(
            {"kind": "steps", "generation": self.seat["generation"], "records": [record], "sent": now}, self.reports
        )

    def park(self) -> None:
        """It stands still, and its rank's part of the checkpoint is stored."""
        if self.seat is None or self.parked:
            return
        self.parked, seat, step = True, self.seat, self.crowd.step
        told = {"step": step, "generation": seat["generation"]}
        prefix = CheckpointPrefix(**told, term=seat["term"], nonce=seat["nonce"])
        stored = {"name": part_name(prefix, seat["place"], seat["ranks"]), "size": 1, "sha256": DIGEST}
        self.reports += 1
        part = {"kind": "part", "rank": seat["place"], "position": step, "objects": [stored]}
        self.say({**part, **told}, self.reports)
        if seat["place"] == 0:
            self.reports += 1
            self.say({"kind": "phase", "phase": "parked", **told}, self.reports)

    # ---- what it hears ---------------------------------------------------------------------------------------------

    def _hear(self, body: dict[str, Any]) -> None:
        match body["kind"]:
            case "welcome":
                self.crowd.term = max(self.crowd.term, body["term"])
                self.welcomed, self._facts = True, None
                self.beat(time.monotonic())
                if self.seat is None:
                    self.joins += not self.joins
                    self._join()
            case "assign" if body["join"] == self.joins and self.seat is None:
                self.seat, self.parked = body["seat"], False
                self.crowd.changed()
            case "restart" if self.seat is not None and self.seat["generation"] == body["generation"]:
                self.left = holding(self.seat)
                self.join()
            case "stop" if self.seat is not None and self.seat["generation"] == body["generation"]:
                self.park()
            case "inspect":
                self.beat(time.monotonic())
            case _:
                pass


def holding(seat: dict[str, Any]) -> dict[str, Any]:
    """What it says that it holds."""
    return {"term": seat["term"], "generation": seat["generation"], "digest": seat["digest"]}


class Crowd:
    """All of them."""

    def __init__(self, port: int, key: bytes, count: int) -> None:
        self.port, self.key, self.began = port, key, time.monotonic()
        self.term, self.stepped_at, self.step = 0, 0.0, 0
        self.agents = [Agent(self, number) for number in range(count)]
        self._absent: set[int] = set()
        self._change = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self) -> None:
        """All connect; beats and steps begin."""
        self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._train())]
        await self._connect(self.agents)

    async def _connect(self, agents: list[Agent]) -> None:
        loop, limit = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

        async def connect(agent: Agent) -> None:
            while not agent.connected:
                try:
                    async with limit, asyncio.timeout(20):
                        await loop.create_connection(lambda: agent, "127.0.0.1", self.port)
                except (OSError, TimeoutError):
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(connect(agent) for agent in agents))

    async def _beat(self) -> None:
        """Each once a second, spread over it."""
        at, due = 0, time.monotonic()
        while True:
            began = time.monotonic()
            upto = min(len(self.agents), round(len(self.agents) * (began - due) / BEAT_SECONDS))
            for number in range(at, upto):
                self.agents[number].beat(began)
            at = max(at, upto)
            if began >= due + BEAT_SECONDS:
                at, due = 0, due + BEAT_SECONDS
            await asyncio.sleep(LOOK_SECONDS)

    async def _train(self) -> None:
        """All members step together; where one is missing, none does."""
        while True:
            await asyncio.sleep(STEP_SECONDS)
            seated = [agent for agent in self.agents if agent.seat is not None]
            newest = max((agent.seat["generation"] for agent in seated if agent.seat), default=0)
            members = [agent for agent in seated if agent.seat and agent.seat["generation"] == newest]
            whole = members and len(members) == members[0].seat["nodes"]  # type: ignore[index]
            if not whole or any(one.silent or one.parked or one.number in self._absent for one in members):
                continue
            self.step, self.stepped_at = self.step + 1, time.monotonic()
            for agent in members:
                agent.step = self.step
                if agent.seat and agent.seat["place"] == 0:
                    agent.tell_step()
            self.changed()

    # ---- what is done to them --------------------------------------------------------------------------------------

    def present(self) -> list[int]:
        """The numbers of those that live."""
        return [agent.number for agent in self.agents if agent.number not in self._absent]

    def kill(self, numbers: list[int]) -> None:
        """These are gone, with all that they held."""
        for number in numbers:
            self.agents[number].abort()
            self.agents[number].seat = None
            self._absent.add(number)

    def silence(self, numbers: list[int]) -> None:
        """These say and hear nothing, and their streams stay."""
        for number in numbers:
            self.agents[number].silent = True
            self._absent.add(number)

    async def come_back(self) -> None:
        """Those that were gone begin anew, as others."""
        numbers, self._absent = sorted(self._absent), set()
        for number in numbers:
            self.agents[number].abort()
            self.agents[number] = Agent(self, number)
        await self._connect([self.agents[number] for number in numbers])

    async def reconnect(self) -> None:
        """All streams end at once, and all are welcomed again."""
        for agent in self.agents:
            agent.abort()
        await self._connect(self.agents)
        while not all(agent.welcomed for agent in self.agents):
            await asyncio.sleep(LOOK_SECONDS)
            lost = [agent for agent in self.agents if not agent.connected]
            if lost:
                await self._connect(lost)

    def close(self) -> None:
        """The end."""
        for task in self._tasks:
            task.cancel()
        for agent in self.agents:
            agent.abort()

    # ---- what is waited for ----------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Somebody has a seat, or a step was made."""
        self._change.set()

    def generation(self) -> int:
        """The newest."""
        return max((agent.seat["generation"] for agent in self.agents if agent.seat), default=0)

    async def seated(self, count: int, limit: float) -> None:
        """Until so many nodes have their seats in one generation of as many. Raises TimeoutError."""
        await self._until(lambda: self._whole(count), limit)

    def _whole(self, count: int) -> bool:
        newest = self.generation()
        seats = [agent.seat for agent in self.agents if agent.seat and agent.seat["generation"] == newest]
        return len(seats) == count and bool(seats[0]["nodes"] == count)

    async def steps(self, count: int, limit: float) -> None:
        """So many more."""
        target = self.step + count
        await self._until(lambda: self.step >= target, limit)

    async def _until(self, probe: Callable[[], bool], limit: float) -> None:
        async with asyncio.timeout(limit):
            while not probe():
                self._change.clear()
                await self._change.wait()
                await asyncio.sleep(LOOK_SECONDS)
