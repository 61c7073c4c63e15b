"""The coordinator's server: streams in, messages out. Owns the connections; what messages mean is `coordinator.py`.

An agent's newer stream replaces its older one. A stream that breaks the rules (wrong key, oversized, too many
messages) is closed. Reading and the clock share one event loop, so that a coordinator that does not read does not
count silence either.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tessera_api.drill import Drill
from tessera_api.exit_codes import ExitCode
from tessera_api.inspection import Inspected
from tessera_api.keys import Ring
from tessera_api.messages import (
    FROM_AGENT,
    Ack,
    Beat,
    FromAgent,
    FromCoordinator,
    Hello,
    Join,
    LeaderSilence,
    Role,
    StatusAnswer,
    Welcome,
)
from tessera_api.orders import Places, Reaped, Size, StatusQuestion, StopRun, Warnings
from tessera_api.seat import PiecesQuestion
from tessera_api.stream import MessageStream, StreamClosed
from tessera_coordinator.coordinator import Coordinator
from tessera_coordinator.core.state import State
from tessera_coordinator.door import Door, hello_on
from tessera_coordinator.scribe import Scribe

logger = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
"""A stream on which nothing came for so long is closed; agents beat each second."""
CONTROL_IDLE_SECONDS = 600.0
TICK_SECONDS = 0.25
PRESSING_TICK_SECONDS = 0.02
TICK_REST = 4.0
"""A pressing tick comes no sooner than so many times what the last one took: a look at thousands of nodes is long."""
PUBLISH_SECONDS = 1.0
ACK_SECONDS = 1.5
"""An agent whose beat is not answered for longer than this gets an answer to its next one: every other one's."""
MAX_MESSAGES_PER_SECOND = 500
FAREWELL_SECONDS = 5.0
STANDBY_SECONDS = 5.0
"""A coordinator that stands by has asked within this, or is not counted."""


class TermSeen(Exception):
    """An agent has obeyed a higher term: another coordinator leads."""


class Server:
    """See the module."""

    def __init__(self, coordinator: Coordinator, scribe: Scribe, ring: Ring, name: str = "") -> None:
        self._coordinator, self._scribe, self._name = coordinator, scribe, name
        self._door = Door(ring, self._serve)
        self._standbys: dict[str, float] = {}
        """When each coordinator that stands by last asked."""
        self._agents: dict[str, tuple[str, MessageStream]] = {}
        self._controllers: set[MessageStream] = set()
        self._heard: dict[MessageStream, float] = {}
        """When an agent's stream last brought something."""
        self._alone = asyncio.Event()
        """No agent has a stream."""
        self._superseded: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tick_due, self._ship_due = asyncio.Event(), asyncio.Event()
        self._tick_welcome = self._publish_due = 0.0
        coordinator.deliver = self._deliver

    async def serve(self, host: str, port: int, ready: Callable[[int], Awaitable[None]]) -> ExitCode:
        """Until the run is over or another coordinator leads. Raises Superseded, TermSeen, OSError (address in use)."""
        self._superseded = asyncio.get_running_loop().create_future()
        server = await self._door.listen(host, port)
        await ready(server.sockets[0].getsockname()[1])
        tasks = [
            asyncio.ensure_future(work)
            for work in (self._scribe.run(), self._clock(), self._shipper(), self._superseded)
        ]
        ended = asyncio.ensure_future(self._coordinator.ended.wait())
        try:
            done, _ = await asyncio.wait((*tasks, ended), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            await self._farewell()
        finally:
            for task in (*tasks, ended):
                task.cancel()
            if self._timer is not None:
                self._timer.cancel()
            server.close()
            await self._door.close()
        closing = self._coordinator.membership.closing
        return closing.exit_code if closing else ExitCode.BUG

    # ---- streams ---------------------------------------------------------------------------------------------------

    async def _serve(self, stream: MessageStream) -> None:
        try:
            await self._talk(stream)
        except TermSeen as error:
            if self._superseded is not None and not self._superseded.done():
                self._superseded.set_exception(error)
        finally:
            self._controllers.discard(stream)

    async def _talk(self, stream: MessageStream) -> None:
        hello = await hello_on(stream)
        orders = hello.role in (Role.CONTROLLER, Role.STANDBY)
        if orders and not stream.proves(hello.proof):
            raise StreamClosed(f"{hello.node} may not speak as {hello.role}: it does not hold the control key")
        if self._door.outdated(stream) and not self._trains(hello):
            raise StreamClosed(f"{hello.node} came with key {stream.keys.number}, which is good no more")
        if hello.term_seen > self._coordinator.term:
            raise TermSeen(f"{hello.node} has obeyed term {hello.term_seen}; ours is {self._coordinator.term}")
        welcome = Welcome(
            run=self._coordinator.terms.run, term=self._coordinator.term, takes=("size", "places", "warnings", "drill")
        )
        self._send(stream, welcome)
        match hello.role:
            case Role.AGENT:
                await self._agent(stream, hello)
            case Role.CONTROLLER:
                await self._control(stream)
            case Role.STANDBY:
                await self._stand_by(stream, hello.node)
            case Role.WITNESS:  # it knows now that this coordinator leads
                pass

    def _trains(self, hello: Hello) -> bool:
        """Whether it is a member of the generation that trains: it stays, however late its new key is."""
        return hello.role is Role.AGENT and self._coordinator.membership.member(hello.node)

    async def _agent(self, stream: MessageStream, hello: Hello) -> None:
        old = self._agents.pop(hello.node, None)
        if old is not None:
            old[1].close()
        self._agents[hello.node] = (hello.incarnation, stream)
        self._alone.clear()
        self._coordinator.apply(self._coordinator.membership.hello(hello, time.monotonic()))
        try:
            budget, answer_due, self._heard[stream] = Budget(), 0.0, time.monotonic()
            while True:
                envelope = await stream.receive(None)  # with a limit of its own each message would cost a timer
                budget.spend()
                if self._agents.get(hello.node) != (hello.incarnation, stream):
                    raise StreamClosed(f"{hello.node} has a newer stream")
                message, now = FROM_AGENT.validate_python(envelope.body), time.monotonic()
                self._heard[stream] = now
                self._hear(stream, hello, message, envelope.sequence)
                if isinstance(message, Beat) and now >= answer_due:
                    answer_due = now + ACK_SECONDS
                    self._send(stream, Ack(sequence=0))
                if now >= self._tick_welcome:
                    self._tick()
        finally:
            del self._heard[stream]
            if self._agents.get(hello.node) == (hello.incarnation, stream):
                del self._agents[hello.node]
                if not self._agents:
                    self._alone.set()
                membership = self._coordinator.membership
                self._coordinator.apply(membership.stream_closed(hello.node, hello.incarnation, time.monotonic()))

    def _hear(self, stream: MessageStream, hello: Hello, message: FromAgent, sequence: int) -> None:
        membership, now = self._coordinator.membership, time.monotonic()
        if membership.roster.get(hello.node) is None and membership.closing is None:
            # A node that was given up for lost speaks again on its old stream: it has to begin with a hello.
            raise StreamClosed(f"{hello.node} was counted as lost")
        match message:
            case Beat():
                self._coordinator.apply(membership.beat(hello.node, message, now))
            case Join():
                self._coordinator.apply(membership.join(hello.node, message, now))
            case Inspected():
                membership.hangs.inspected(hello.node, message)
            case PiecesQuestion(generation=generation, first=first):
                if membership.seating is not None and membership.seating.opened.generation == generation:
                    self._send(stream, membership.seating.page(first))
            case (
                Hello()
                | LeaderSilence()
                | Size()
                | Places()
                | Warnings()
                | Drill()
                | StopRun()
                | Reaped()
                | StatusQuestion()
            ):
                raise StreamClosed(f"an agent may not say {message.kind}")
            case report:
                self._coordinator.report(hello.node, report, lambda: self._send(stream, Ack(sequence=sequence)))

    async def _control(self, stream: MessageStream) -> None:
        self._controllers.add(stream)
        budget = Budget()
        while True:
            envelope = await stream.receive(CONTROL_IDLE_SECONDS)
            budget.spend()
            message = FROM_AGENT.validate_python(envelope.body)
            membership, now = self._coordinator.membership, time.monotonic()
            match message:
                case StopRun(reason=reason, deadline_seconds=deadline):
                    self._coordinator.apply(membership.stop_run(reason, deadline, now))
                case Size() | Places() | Warnings() | Drill():
                    self._coordinator.ordered(message)
                case Reaped():
                    self._coordinator.apply(membership.reaped(message, now))
                case StatusQuestion():
                    self._send(stream, self._answer())
                case _:
                    raise StreamClosed(f"a controller may not say {message.kind}")
            if envelope.sequence:
                self._send(stream, Ack(sequence=envelope.sequence))

    async def _stand_by(self, stream: MessageStream, name: str) -> None:
        """Another coordinator of the run makes sure that this one lives."""
        self._controllers.add(stream)
        budget = Budget()
        while True:
            message = FROM_AGENT.validate_python((await stream.receive(IDLE_SECONDS)).body)
            budget.spend()
            if not isinstance(message, StatusQuestion):
                raise StreamClosed(f"a coordinator that stands by may not say {message.kind}")
            self._standbys[name] = time.monotonic()
            self._send(stream, self._answer())

    def _answer(self) -> StatusAnswer:
        """The coordinator's, and who is there to lead."""
        now = time.monotonic()
        self._standbys = {name: asked for name, asked in self._standbys.items() if now - asked < STANDBY_SECONDS}
        names = (self._name, *self._standbys) if self._name else ()
        return self._coordinator.answer().model_copy(update={"coordinators": names})

    def _send(self, stream: MessageStream, message: FromCoordinator) -> None:
        generation = self._coordinator.membership.generation
        try:
            stream.send(message, self._coordinator.term, generation.generation if generation else 0)
        except StreamClosed as error:
            logger.info("not delivered: %s: %s", message.kind, error)

    def _deliver(self, node: str, message: FromCoordinator) -> None:
        held = self._agents.get(node)
        if held is not None:
            self._send(held[1], message)

    # ---- clocks ----------------------------------------------------------------------------------------------------

    async def _clock(self) -> None:
        """Ticks when no message has brought one: waking up costs the coordinator more than what it then does."""
        while True:
            self._tick()
            await self._tick_due.wait()

    def _tick(self) -> None:
        began = time.monotonic()
        self._coordinator.tick()
        now = time.monotonic()
        if now >= self._publish_due:
            self._publish_due = now + PUBLISH_SECONDS
            self._coordinator.publish(now)
            for stream in [stream for stream, heard in self._heard.items() if now - heard > IDLE_SECONDS]:
                stream.close()
            if self._coordinator.records.ship_due(now):
                self._ship_due.set()
        membership = self._coordinator.membership
        waits = membership.state is State.FORMING and membership.roster.crowded  # for this very tick
        pressing = waits or membership.watch.pressing()
        seconds = max(PRESSING_TICK_SECONDS, TICK_REST * (now - began)) if pressing else TICK_SECONDS
        self._tick_welcome = now + seconds / 2
        if self._timer is not None:
            self._timer.cancel()
        self._tick_due.clear()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tick_due.set)

    async def _shipper(self) -> None:
        """Beside the publisher: while storage is away, the run directory is written as ever."""
        while True:
            await self._ship_due.wait()
            self._ship_due.clear()
            await self._coordinator.records.keep_safe()

    async def _farewell(self) -> None:
        """Everybody was told; wait until they have gone, so that the last words are not cut off."""
        assert self._coordinator.membership.state is State.CLOSED
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._alone.wait()
        for stream in self._controllers:  # who asks now and then would miss the last numbers
            self._send(stream, self._answer())
        self._coordinator.finish()


class Budget:
    """Bounds how many messages a stream may send: `MAX_MESSAGES_PER_SECOND` on average over ten seconds."""

    def __init__(self) -> None:
        self._left, self._at = 10.0 * MAX_MESSAGES_PER_SECOND, time.monotonic()

    def spend(self) -> None:
        """One message. Raises StreamClosed when there were too many."""
        now = time.monotonic()
        most = 10.0 * MAX_MESSAGES_PER_SECOND
        self._left = min(most, self._left + (now - self._at) * MAX_MESSAGES_PER_SECOND) - 1
        self._at = now
        if self._left < 0:
            raise StreamClosed(f"more than {MAX_MESSAGES_PER_SECOND} messages a second")
