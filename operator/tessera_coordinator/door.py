"""The door of a coordinator: streams that begin, who is there, and the end of all of them.

What must stay true: a stream that breaks the rules (wrong key, no message, too late) costs itself alone; there are
never more than `MAX_STREAMS`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from tessera_api.messages import FROM_AGENT, PROTOCOL, Hello
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.wire import Side

logger = logging.getLogger(__name__)

GREETING_SECONDS = 5.0
MAX_STREAMS = 8192


class Door:
    """Serves each stream with `serve`, a task each, until it returns or the stream breaks the rules."""

    def __init__(self, key: bytes, serve: Callable[[MessageStream], Awaitable[None]]) -> None:
        self._key, self._serve = key, serve
        self._streams: set[MessageStream] = set()
        self._talks: set[asyncio.Task[None]] = set()

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
            stream = await MessageStream.begin(reader, writer, self._key, Side.SERVER, GREETING_SECONDS)
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

    async def close(self) -> None:
        """Close every stream and let those who serve them come to their end."""
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
