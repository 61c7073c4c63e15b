"""The controller's end of a stream to the coordinator: orders that stand, and what the coordinator answers.

Owns one connection and its renewal. What must stay true: an order is told again on every new stream, because a
controller's messages are not acknowledged and a coordinator may be restarted at any moment (all orders are
idempotent); nothing here blocks the event loop or waits without a limit; a coordinator that is away is tried for as
long as `run` runs, with a bounded back-off.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from pydantic import ValidationError

from tessera_api.messages import (
    FROM_COORDINATOR,
    Closed,
    FromCoordinator,
    Hello,
    Reaped,
    Role,
    StatusAnswer,
    StatusQuestion,
    StopRun,
)
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.wire import Side

logger = logging.getLogger(__name__)

CONNECT_LIMIT = 2.0
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
SILENCE_LIMIT = 30.0
"""A coordinator that answers no question for so long (paused, cut off) is tried on a new stream."""
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

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ControllerClient:
    """See the module. All methods belong to the event loop's thread."""

    def __init__(self, address: Address, key: bytes, name: str, question_seconds: float = 1.0) -> None:
        self._address, self._key, self._name = address, key, name
        self._incarnation = secrets.token_hex(8)
        self._question_seconds = question_seconds
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

    def _tell(self, order: Reaped | StopRun | StatusQuestion) -> None:
        if self._stream is not None:
            with suppress(StreamClosed):  # the reading side notices, and the order is told again on the next stream
                self._stream.send(order)

    async def run(self) -> None:
        """Keep a stream for as long as this runs; ends by being cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                stream = await self._connect()
                pause = FIRST_PAUSE
                await self._serve(stream)
            except StreamClosed as error:
                logger.debug("no stream to the coordinator at %s: %s", self._address, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self) -> MessageStream:
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        except (OSError, TimeoutError) as error:
            raise StreamClosed(str(error) or type(error).__name__) from error
        return await MessageStream.begin(reader, writer, self._key, Side.CLIENT, CONNECT_LIMIT)

    async def _serve(self, stream: MessageStream) -> None:
        """Tell what stands, then ask and listen until the stream ends."""
        asking = None
        try:
            stream.send(Hello(role=Role.CONTROLLER, node=self._name, incarnation=self._incarnation))
            for order in chain(self._reaped, () if self._stop is None else (self._stop,)):
                stream.send(order)
            self._stream = stream
            self.on_stream(True)
            asking = asyncio.create_task(self._ask())
            while True:
                self._take((await stream.receive(SILENCE_LIMIT)).body)
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

    def _take(self, body: dict[str, object]) -> None:
        try:
            message: FromCoordinator = FROM_COORDINATOR.validate_python(body)
        except ValidationError as error:  # a newer coordinator may say more than this version knows
            logger.debug("a message that this version does not know: %s", error)
            return
        if isinstance(message, StatusAnswer):
            self.on_status(message)
            if message.closed is not None:
                self._close(message.closed)
        elif isinstance(message, Closed):
            self._close(message.reason)

    def _close(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
