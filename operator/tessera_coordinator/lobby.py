"""The door of a coordinator that stands by: who comes is told that it does not lead, and witnesses are heard.

What must stay true: nothing that is said here changes the run; once this coordinator leads, every witness is told so on
the stream that it has, so that no agent has to miss its leader first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from pydantic import ValidationError

from tessera_api.messages import FROM_AGENT, Hello, LeaderSilence, Role, Standby, Welcome
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.wire import Side
from tessera_coordinator.core.succession import Succession
from tessera_coordinator.first_words import GREETING_SECONDS, hello_on

logger = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
MAX_STREAMS = 8192


class Lobby:
    """See the module."""

    def __init__(self, run: str, key: bytes, succession: Succession) -> None:
        self._run, self._key, self._succession = run, key, succession
        self._witnesses: dict[MessageStream, str] = {}
        self._talks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError (address in use)."""
        self._server = await asyncio.start_server(self._accept, host, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """The address is free again; who is here stays."""
        if self._server is not None:
            self._server.close()

    async def dismiss(self, term: int | None) -> None:
        """Every stream ends; with a term, after the word that this coordinator leads it."""
        self.stop_listening()
        for stream in tuple(self._witnesses):
            if term is not None:
                with suppress(StreamClosed):
                    stream.send(Welcome(run=self._run, term=term), term)
            stream.close()
        if self._talks:
            await asyncio.wait(self._talks, timeout=1.0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._talks) >= MAX_STREAMS:
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
        try:
            hello = await hello_on(stream)
            stream.send(Standby(run=self._run))
            if hello.role is Role.WITNESS:
                await self._listen(stream, hello)
        except StreamClosed as error:
            logger.info("a stream ended: %s", error)
        except ValidationError as error:
            logger.warning("a stream sent what is no message: %s", error)
        finally:
            stream.close()

    async def _listen(self, stream: MessageStream, hello: Hello) -> None:
        """A newer stream of a node replaces its older one."""
        for older in [one for one, node in self._witnesses.items() if node == hello.node]:
            del self._witnesses[older]
            older.close()
        self._witnesses[stream] = hello.node
        try:
            while True:
                message = FROM_AGENT.validate_python((await stream.receive(IDLE_SECONDS)).body)
                if not isinstance(message, LeaderSilence):
                    raise StreamClosed(f"a witness may not say {message.kind}")
                if stream in self._witnesses:
                    self._succession.said(hello.node, message.seconds, time.monotonic())
        finally:
            if self._witnesses.pop(stream, None) is not None:
                self._succession.gone(hello.node)
