"""The controller's end of a stream to the coordinator: orders that stand, and what the coordinator answers.

Owns one connection and its renewal; of several coordinators it finds the one that leads. What must stay true: an order
is told again on every new stream, because a controller's messages are not acknowledged and a coordinator may be
restarted at any moment (all orders are idempotent); nothing here blocks the event loop or waits without a limit; a
coordinator that is away is tried for as long as `run` runs, with a bounded back-off.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle

from tessera_api.drill import Drill
from tessera_api.keys import Ring
from tessera_api.messages import Closed, FromCoordinator, Hello, Role, Standby, StatusAnswer, Welcome, understood
from tessera_api.orders import Places, Reaped, Size, StatusQuestion, StopRun, Warnings
from tessera_api.stream import MessageStream, StreamClosed, dial

logger = logging.getLogger(__name__)

CONNECT_LIMIT = 2.0
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
SILENCE_LIMIT = 30.0
"""A coordinator that answers no question for so long (paused, cut off) is tried on a new stream."""
SILENCE_LIMIT_OF_TWO = 4.0
"""The same where another coordinator may lead by then."""
REAPED_KEPT = 256
"""Ends of processes that are told again to a coordinator that was restarted."""


@dataclass(frozen=True)
class Address:
    """Where a coordinator listens. `text` is HOST:PORT."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From HOST:PORT. ValueError when it is none."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host, int(port))

    @classmethod
    def parse_all(cls, text: str) -> tuple[Address, ...]:
        """From HOST:PORT[,HOST:PORT]. ValueError when it is none."""
        return tuple(cls.parse(one) for one in text.split(","))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


async def begin(address: Address, ring: Ring, hello: Hello) -> tuple[MessageStream, Welcome]:
    """A stream to the coordinator at `address`, and its welcome. Raises StreamClosed, of one that stands by
    too."""
    stream = await dial(address.host, address.port, ring, CONNECT_LIMIT)
    stream.send(hello.model_copy(update={"proof": stream.proof()}))
    welcome = understood((await stream.receive(CONNECT_LIMIT)).body)
    if not isinstance(welcome, Welcome):
        stream.close()
        raise StreamClosed("it does not lead" if isinstance(welcome, Standby) else "it did not welcome us")
    return stream, welcome


async def leads(address: Address, ring: Ring, name: str, limit: float = CONNECT_LIMIT) -> bool:
    """Whether a coordinator answers there, within `limit` seconds, and leads."""
    hello = Hello(role=Role.STANDBY, node=name, incarnation=secrets.token_hex(8))
    try:
        async with asyncio.timeout(limit):
            stream, _ = await begin(address, ring, hello)
    except (StreamClosed, TimeoutError):
        return False
    stream.close()
    return True


class ControllerClient:
    """See the module. All methods belong to the event loop's thread."""

    def __init__(
        self,
        addresses: tuple[Address, ...],
        ring: Ring,
        name: str,
        question_seconds: float = 1.0,
        role: Role = Role.CONTROLLER,
    ) -> None:
        self._addresses, self._ring, self._name, self._role = addresses, ring, name, role
        self._term = 0
        """The highest that a coordinator has welcomed us with: an older one is passed over."""
        self._incarnation = secrets.token_hex(8)
        self._question_seconds = question_seconds
        self._standing: dict[str, Size | Places | Warnings | Drill] = {}
        """The newest order of each kind that replaces the one before."""
        self.takes: tuple[str, ...] = ()
        """Kinds of orders that the coordinator takes and that older versions do not."""
        self._reaped: deque[Reaped] = deque(maxlen=REAPED_KEPT)
        self._stop: StopRun | None = None
        self._stream: MessageStream | None = None
        self.on_status: Callable[[StatusAnswer], None] = lambda answer: None
        """Called with each answer, about every `question_seconds`."""
        self.on_stream: Callable[[bool], None] = lambda connected: None
        """Called when a stream has begun (True) or ended (False)."""
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why the run is over or stopped, once the coordinator says it."""

    def reaped(self, report: Reaped) -> None:
        """A node's process has ended: told at once, and to every later coordinator."""
        self._reaped.append(report)
        self._tell(report)

    def stop(self, order: StopRun) -> None:
        """Order the run's stop; the first order stands."""
        if self._stop is None:
            self._stop = order
            self._tell(order)

    def order(self, order: Size | Places | Warnings | Drill) -> None:
        """Another number of nodes, their places, those that had better not be used; the newest of its kind stands."""
        if order != self._standing.get(order.kind):
            self._standing[order.kind] = order
            if order.kind in self.takes:
                self._tell(order)

    def _orders(self) -> list[Reaped | StopRun | Size | Places | Warnings | Drill]:
        """All that stand, for a new stream."""
        stop = [] if self._stop is None else [self._stop]
        standing = [order for order in self._standing.values() if order.kind in self.takes]
        return [*self._reaped, *standing, *stop]

    def _tell(self, order: Reaped | StopRun | Size | Places | Warnings | Drill | StatusQuestion) -> None:
        if self._stream is not None:
            with suppress(StreamClosed):  # the reading side notices, and the order is told again on the next stream
                self._stream.send(order)

    async def run(self) -> None:
        """Keep a stream for as long as this runs; ends by being cancelled."""
        pause = FIRST_PAUSE
        for address in cycle(self._addresses):
            try:
                stream = await self._begin(address)
                pause = FIRST_PAUSE
                await self._serve(stream)
            except StreamClosed as error:
                logger.debug("no stream to the coordinator at %s: %s", address, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _begin(self, address: Address) -> MessageStream:
        """A stream to a coordinator that leads. Raises StreamClosed."""
        hello = Hello(role=self._role, node=self._name, incarnation=self._incarnation, term_seen=self._term)
        stream, welcome = await begin(address, self._ring, hello)
        if welcome.term < self._term:
            stream.close()
            raise StreamClosed(f"its term is {welcome.term}; {self._term} was seen")
        self._term, self.takes = welcome.term, welcome.takes
        return stream

    async def _serve(self, stream: MessageStream) -> None:
        """Tell what stands, then ask and listen until the stream ends."""
        asking, limit = None, SILENCE_LIMIT if len(self._addresses) == 1 else SILENCE_LIMIT_OF_TWO
        try:
            for order in self._orders():
                stream.send(order)
            self._stream = stream
            self.on_stream(True)
            asking = asyncio.create_task(self._ask())
            while True:
                self._take(understood((await stream.receive(limit)).body))
        finally:
            if asking is not None:
                asking.cancel()
            stream.close()
            if self._stream is not None:
                self._stream = None
                self.on_stream(False)

    async def _ask(self) -> None:
        while True:
            self._tell(StatusQuestion())
            await asyncio.sleep(self._question_seconds)

    def _take(self, message: FromCoordinator | None) -> None:
        if isinstance(message, StatusAnswer):
            self.on_status(message)
            if message.closed is not None:
                self._close(message.closed)
        elif isinstance(message, Closed):
            self._close(message.reason)

    def _close(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
