"""One authenticated stream of messages: `wire` on asyncio's reader and writer, in TLS where the run has certificates.

Who calls opens a stream with `dial`; who is called hands in the connection. Every wait has a limit.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import hmac
import secrets
import ssl
from contextlib import suppress

from tessera_api.keys import Keys, Ring
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
READ_BYTES = 64 << 10
TLS_BUFFER_BYTES = 16 << 10
"""Of each TLS connection of a process, as much as a record may have. With asyncio's own 256 KiB a coordinator of a
thousand nodes would need more memory than it has."""
FAREWELL_SECONDS = 2.0
"""So long an end may take to agree that a TLS connection is closed."""


class StreamClosed(Exception):
    """The other end is gone, silent beyond the limit, or not who it must be. The cause is chained if there is one."""


class MessageStream:
    """Sends and receives envelopes. A send never blocks: a reader that is too slow loses its stream instead."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: Channel, keys: Keys
    ) -> None:
        self._reader, self._writer, self._channel, self.keys = reader, writer, channel, keys
        self._read = bytearray()
        self._held: list[bytes] | None = None

    @classmethod
    async def begin(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: Keys, side: Side, limit: float
    ) -> MessageStream:
        """Exchange greetings within `limit` seconds, on a connection under `keys`. Raises StreamClosed."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        try:
            writer.write(greeting(nonce))
            async with asyncio.timeout(limit):
                theirs = read_greeting(await reader.readexactly(HELLO_BYTES))
        except (OSError, EOFError, TimeoutError, WireError) as error:
            writer.close()
            raise StreamClosed(str(error) or type(error).__name__) from error
        server, client = (nonce, theirs) if side is Side.SERVER else (theirs, nonce)
        return cls(reader, writer, Channel(keys.run, server, client, side), keys)

    def proof(self) -> str | None:
        """That this end of the stream holds the control key; None where it holds none."""
        return self._channel.proof(self.keys.control) if self.keys.control is not None else None

    def proves(self, proof: str | None) -> bool:
        """Whether the other end's proof is right; where there is no control key, the run's is enough."""
        ours = self.proof()
        return ours is None or (proof is not None and hmac.compare_digest(ours, proof))

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
        """One read brings most messages whole, and often several."""
        while (envelope := self._next()) is None:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise EOFError("the other end is gone" + (", in the middle of a message" if self._read else ""))
            self._read += data
        return envelope

    def _next(self) -> Envelope | None:
        """The first message of what was read, if it is there whole."""
        if len(self._read) < HEADER_BYTES:
            return None
        header = bytes(self._read[:HEADER_BYTES])
        end = HEADER_BYTES + self._channel.body_length(header)
        if len(self._read) < end:
            return None
        body = bytes(self._read[HEADER_BYTES:end])
        del self._read[:end]
        return self._channel.open(header, body)

    def send(self, message: Record, term: int = 0, generation: int = 0, sequence: int = 0) -> None:
        """Hand a message to the connection. Raises StreamClosed when it can take no more, or not this message: one
        too large for a frame is not sent, and the stream lives."""
        if self._writer.is_closing() or self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.close()
            raise StreamClosed("the other end does not read")
        try:
            frame = self._channel.seal_text(term, generation, sequence, _text(message))
        except WireError as error:
            raise StreamClosed(str(error)) from error
        if self._held is None:
            self._writer.write(frame)
        else:
            self._held.append(frame)

    def hold(self) -> None:
        """A drill: nothing leaves and nothing is read until `let_go`."""
        self._held = self._held or []
        with suppress(RuntimeError):  # it is closed, or was held already
            self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def let_go(self) -> None:
        """What was held leaves, in order."""
        held, self._held = self._held or [], None
        if not self._writer.is_closing():
            self._writer.writelines(held)
            self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the stream; what was handed over may still leave."""
        self._writer.close()

    async def drain(self) -> None:
        """Until what was handed over has left. Raises StreamClosed."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise StreamClosed(str(error)) from error


_last: tuple[Record | None, bytes] = (None, b"")


def _text(message: Record) -> bytes:
    """The message in words; one that has just been said to another is not put into words again."""
    global _last  # noqa: PLW0603 - a store of one, replaced whole
    last, text = _last
    if last is not message:
        text = message.model_dump_json(exclude_none=True).encode()
        _last = (message, text)
    return text


async def dial(host: str, port: int, ring: Ring, limit: float) -> MessageStream:
    """A stream to whoever listens there, under the newest of our keys that it knows, within `limit` seconds for each.
    Raises StreamClosed."""
    try:
        held = ring()
    except OSError as error:
        raise StreamClosed(f"no key: {error}") from error
    refused: OSError | None = None
    for keys in held:
        try:
            async with asyncio.timeout(limit):
                reader, writer = await _connection(host, port, keys)
        except (ssl.SSLError, ConnectionResetError) as error:
            # It has not been given this key yet; asyncio drops the connection before the alert that says so has left.
            refused = error
            continue
        except (OSError, TimeoutError) as error:
            raise StreamClosed(str(error) or type(error).__name__) from error
        return await MessageStream.begin(reader, writer, keys, Side.CLIENT, limit)
    raise StreamClosed(f"it takes none of our keys: {refused}") from refused


def with_small_buffers() -> None:
    """To be called before the first TLS connection: it counts for those that come after."""
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


async def _connection(host: str, port: int, keys: Keys) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = keys.for_client()
    if context is None:
        return await asyncio.open_connection(host, port)
    with_small_buffers()
    return await asyncio.open_connection(
        host, port, ssl=context, server_hostname=keys.host, ssl_shutdown_timeout=FAREWELL_SECONDS
    )
