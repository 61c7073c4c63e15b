"""One authenticated stream of messages over an open connection: `wire` on asyncio's reader and writer.

Opens no sockets and knows no address: whoever owns the connection hands it in. Every wait has a limit.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets

from tessera_api.record import Record
from tessera_api.wire import (
    HEADER_BYTES,
    HELLO_BYTES,
    NONCE_BYTES,
    Channel,
    Envelope,
    Side,
    WireError,
    greeting,
    read_greeting,
)

MAX_UNSENT_BYTES = 32 << 20


class StreamClosed(Exception):
    """The other end is gone, silent beyond the limit, or not who it must be. The cause is chained if there is one."""


class MessageStream:
    """Sends and receives envelopes. A send never blocks: a reader that is too slow loses its stream instead."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: Channel) -> None:
        self._reader, self._writer, self._channel = reader, writer, channel

    @classmethod
    async def begin(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, side: Side, limit: float
    ) -> MessageStream:
        """Exchange greetings within `limit` seconds. Raises StreamClosed."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            writer.write(greeting(nonce))
            async with asyncio.timeout(limit):
                theirs = read_greeting(await reader.readexactly(HELLO_BYTES))
        except (OSError, EOFError, TimeoutError, WireError) as error:
            writer.close()
            raise StreamClosed(str(error) or type(error).__name__) from error
        server, client = (nonce, theirs) if side is Side.SERVER else (theirs, nonce)
        return cls(reader, writer, Channel(key, server, client, side))

    def proof(self, control: bytes) -> str:
        """That this end of the stream holds the key `control`."""
        return self._channel.proof(control)

    def proves(self, control: bytes, proof: str | None) -> bool:
        """Whether the other end's proof is right."""
        return proof is not None and hmac.compare_digest(self._channel.proof(control), proof)

    async def receive(self, limit: float | None) -> Envelope:
        """The next message, within `limit` seconds (None: for ever). Raises StreamClosed."""
        try:
            if limit is None:
                return await self._receive()
            async with asyncio.timeout(limit):
                return await self._receive()
        except (OSError, EOFError, TimeoutError, WireError) as error:
            self.close()
            raise StreamClosed(str(error) or type(error).__name__) from error

    async def _receive(self) -> Envelope:
        header = await self._reader.readexactly(HEADER_BYTES)
        return self._channel.open(header, await self._reader.readexactly(self._channel.body_length(header)))

    def send(self, message: Record, term: int = 0, generation: int = 0, sequence: int = 0) -> None:
        """Hand a message to the connection. Raises StreamClosed when it can take no more, or not this message: one
        too large for a frame is not sent, and the stream lives."""
        if self._writer.is_closing() or self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.close()
            raise StreamClosed("the other end does not read")
        body = message.model_dump(mode="json", exclude_none=True)
        try:
            frame = self._channel.seal(Envelope(term, generation, sequence, body))
        except WireError as error:
            raise StreamClosed(str(error)) from error
        self._writer.write(frame)

    def close(self) -> None:
        """End the stream; what was handed over may still leave."""
        self._writer.close()

    async def drain(self) -> None:
        """Until what was handed over has left. Raises StreamClosed."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise StreamClosed(str(error)) from error
