"""One authenticated stream over loopback: every wait ends, and a slow reader loses its stream instead of holding the
writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tessera_api.keys import Keys
from tessera_api.messages import Ack, Note, Welcome
from tessera_api.record import Record
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.wire import Side

KEY = b"k" * 32
LIMIT_S = 10.0


@asynccontextmanager
async def sockets(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that does `serve`."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()


async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes = KEY) -> MessageStream:
    return await MessageStream.begin(reader, writer, Keys(key), Side.SERVER, LIMIT_S)


async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> MessageStream:
    return await MessageStream.begin(reader, writer, Keys(KEY), Side.CLIENT, LIMIT_S)


def test_a_message_arrives_with_term_generation_and_number() -> None:
    async def story() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (await begin(reader, writer)).send(Welcome(run="tiny", term=4), term=4, generation=2, sequence=9)

        async with sockets(serve) as ends:
            envelope = await (await client(*ends)).receive(LIMIT_S)
        assert (envelope.term, envelope.generation, envelope.sequence) == (4, 2, 9)
        assert Welcome.model_validate(envelope.body) == Welcome(run="tiny", term=4)

    asyncio.run(story())


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await begin(reader, writer)
    await reader.read()


async def _leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (await begin(reader, writer)).close()


async def _torn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await begin(reader, writer)
    writer.write(b"\0\0\0\x20half a header")
    writer.close()


async def _other_key(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (await begin(reader, writer, b"x" * 32)).send(Ack(sequence=0))


async def _oversized(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await begin(reader, writer)
    writer.write(b"\xff" * 36)
    await reader.read()


@pytest.mark.parametrize(
    ("serve", "limit", "words"),
    [
        (_silent, 0.05, "TimeoutError"),
        (_leaves, LIMIT_S, "is gone$"),
        (_torn, LIMIT_S, "in the middle of a message"),
        (_other_key, LIMIT_S, "authentication code is wrong"),
        (_oversized, LIMIT_S, "at most"),
    ],
    ids=["silent", "leaves", "torn", "other key", "oversized"],
)
def test_whatever_ends_a_stream_is_said_and_closes_it(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], limit: float, words: str
) -> None:
    async def story() -> None:
        async with sockets(serve) as ends:
            stream = await client(*ends)
            with pytest.raises(StreamClosed, match=words):
                await stream.receive(limit)
            with pytest.raises(StreamClosed):
                stream.send(Ack(sequence=0))

    asyncio.run(story())


def test_something_that_is_no_tessera_is_refused_at_the_greeting() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async def story() -> None:
        async with sockets(serve) as ends:
            with pytest.raises(StreamClosed, match="not a Tessera stream"):
                await client(*ends)

    asyncio.run(story())


def test_an_end_that_never_greets_is_given_up_within_the_limit() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def story() -> None:
        async with sockets(serve) as (reader, writer):
            with pytest.raises(StreamClosed, match="TimeoutError"):
                await MessageStream.begin(reader, writer, Keys(KEY), Side.CLIENT, 0.05)

    asyncio.run(story())


def test_a_slow_reader_loses_its_stream_and_the_writer_never_waits() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = await begin(reader, writer)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(LIMIT_S)
        stream.close()

    async def story() -> None:
        async with sockets(serve) as ends:
            stream = await client(*ends)
            long = Note(name="Long", message="x" * 2000, numbers={str(n): n for n in range(30)})

            def send_on() -> None:
                for _ in range(1_000_000):
                    stream.send(long)

            with pytest.raises(StreamClosed, match="does not read"):
                send_on()

    asyncio.run(story())


def test_a_message_too_large_for_a_frame_is_refused_and_the_stream_lives() -> None:
    class Endless(Record):
        text: str

    async def story() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = await begin(reader, writer)
            body = (await stream.receive(LIMIT_S)).body
            stream.send(Ack(sequence=int(str(body["sequence"]))))

        async with sockets(serve) as ends:
            stream = await client(*ends)
            with pytest.raises(StreamClosed, match="at most"):
                stream.send(Endless(text="x" * (2 << 20)))
            stream.send(Ack(sequence=5))
            answer = await stream.receive(LIMIT_S)
        assert answer.body == {"kind": "ack", "sequence": 5}

    asyncio.run(story())


def test_what_is_held_comes_later_in_order_and_whole() -> None:
    async def story() -> None:
        let_go = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = await begin(reader, writer)
            stream.send(Ack(sequence=1))
            stream.hold()
            stream.hold()
            stream.send(Ack(sequence=2))
            stream.send(Ack(sequence=3))
            await let_go.wait()
            stream.let_go()
            stream.send(Ack(sequence=4))
            stream.close()
            stream.hold()
            stream.let_go()

        async with sockets(serve) as ends:
            stream = await client(*ends)
            first = await stream.receive(LIMIT_S)
            late = asyncio.ensure_future(stream.receive(LIMIT_S))
            done, _ = await asyncio.wait([late], timeout=0.1)
            let_go.set()
            rest = [await late, await stream.receive(LIMIT_S), await stream.receive(LIMIT_S)]
        assert not done
        assert [envelope.body["sequence"] for envelope in (first, *rest)] == [1, 2, 3, 4]

    asyncio.run(story())
