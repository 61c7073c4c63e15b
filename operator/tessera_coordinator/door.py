"""The door of a coordinator: streams that begin, who is there, and the end of all of them.

What must stay true: a stream that breaks the rules (wrong key, no message, too late) costs itself alone; there are
never more than `MAX_STREAMS`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from tessera_api.keys import Ring
from tessera_api.messages import FROM_AGENT, PROTOCOL, Hello
from tessera_api.stream import FAREWELL_SECONDS, MessageStream, StreamClosed, with_small_buffers
from tessera_api.wire import Side
from tessera_coordinator.core.rotation import Rotation
from tessera_coordinator.handshake import Handshake

logger = logging.getLogger(__name__)

GREETING_SECONDS = 5.0
MAX_STREAMS = 40_000
BACKLOG = 4096
LOOK_SECONDS = 10.0
"""How often newer keys are looked for; whoever asks for one sooner has it at once."""
MOVE_PAUSE_SECONDS = 0.05
"""Between two streams that have to begin anew: a thousand nodes don't come back at once."""


class Door:
    """Serves each stream with `serve`, a task each, until it returns or the stream breaks the rules. Raises OSError
    when the ring can't be read."""

    def __init__(self, ring: Ring, serve: Callable[[MessageStream], Awaitable[None]]) -> None:
        self._serve = serve
        self._handshake, self._rotation = Handshake(ring), Rotation()
        self._streams: set[MessageStream] = set()
        self._talks: set[asyncio.Task[None]] = set()
        self._mover: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Take connections, until `close`. Raises OSError (address in use)."""
        self._look(time.monotonic())
        context = self._handshake.context()
        if context is None:
            return await asyncio.start_server(self.accept, host, port, backlog=BACKLOG)
        with_small_buffers()
        server = await asyncio.start_server(
            *(self.accept, host, port),
            backlog=BACKLOG,
            ssl=context,
            ssl_handshake_timeout=GREETING_SECONDS,
            ssl_shutdown_timeout=FAREWELL_SECONDS,
        )
        self._mover = asyncio.create_task(self._keep_moving())
        return server

    def _look(self, now: float) -> None:
        self._handshake.refresh()
        self._rotation.sees(self._handshake.numbers, now)

    async def _keep_moving(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            self._look(now)
            if self._rotation.move_due(now):
                for stream in [stream for stream in self._streams if self._rotation.older(stream.keys.number)]:
                    logger.info("a stream under key %d has to begin anew", stream.keys.number)
                    stream.close()
                    await asyncio.sleep(MOVE_PAUSE_SECONDS)

    def outdated(self, stream: MessageStream) -> bool:
        """Whether a stream is under a key that is good for nothing any more."""
        return self._rotation.outdated(stream.keys.number, time.monotonic())

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection, as asyncio's server hands it over."""
        if len(self._streams) >= MAX_STREAMS:
            writer.close()
            return
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)
        try:
            stream = await self._begin(reader, writer)
        except StreamClosed as error:
            logger.info("a stream was refused: %s", error)
            return
        self._streams.add(stream)
        try:
            await self._serve(stream)
        except StreamClosed as error:
            logger.info("a stream ended: %s", error)
        except ValidationError as error:
            logger.warning("a stream sent what is no message: %s", error)
        finally:
            self._streams.discard(stream)
            stream.close()

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> MessageStream:
        keys = self._handshake.keys_of(writer)
        self._rotation.sees((keys.number,), time.monotonic())
        return await MessageStream.begin(reader, writer, keys, Side.SERVER, GREETING_SECONDS)

    async def close(self) -> None:
        """Close every stream and let those who serve them come to their end."""
        if self._mover is not None:
            self._mover.cancel()
        for stream in tuple(self._streams):
            stream.close()
        if self._talks:
            await asyncio.wait(self._talks, timeout=1.0)


async def hello_on(stream: MessageStream) -> Hello:
    """The hello that a stream begins with. Raises StreamClosed, pydantic.ValidationError."""
    hello = FROM_AGENT.validate_python((await stream.receive(GREETING_SECONDS)).body)
    if not isinstance(hello, Hello):
        raise StreamClosed("the first message was no hello")
    if hello.protocol not in (PROTOCOL, PROTOCOL - 1):
        raise StreamClosed(f"protocol {hello.protocol}; this coordinator speaks {PROTOCOL} and {PROTOCOL - 1}")
    return hello
