"""The door of a coordinator that stands by: who comes is told that it does not lead, and witnesses are heard.

What must stay true: nothing that is said here changes the run; once this coordinator leads, every witness is told so on
the stream that it has, so that no agent has to miss its leader first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from tessera_api.keys import Ring
from tessera_api.messages import FROM_AGENT, Ack, Hello, LeaderSilence, Role, Standby, Welcome
from tessera_api.stream import MessageStream, StreamClosed
from tessera_coordinator.core.succession import Succession
from tessera_coordinator.door import Door, hello_on

logger = logging.getLogger(__name__)

IDLE_SECONDS = 30.0


class Lobby:
    """See the module."""

    def __init__(self, run: str, ring: Ring, succession: Succession) -> None:
        self._run, self._succession = run, succession
        self._door = Door(ring, self._serve)
        self._witnesses: dict[MessageStream, str] = {}
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError (address in use)."""
        self._server = await self._door.listen(host, port)
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
        await self._door.close()

    async def _serve(self, stream: MessageStream) -> None:
        hello = await hello_on(stream)
        if self._door.outdated(stream):
            raise StreamClosed(f"{hello.node} came with key {stream.keys.number}, which is good no more")
        stream.send(Standby(run=self._run))
        if hello.role is Role.WITNESS:
            await self._listen(stream, hello)

    async def _listen(self, stream: MessageStream, hello: Hello) -> None:
        """A newer stream of a node replaces its older one."""
        for older in [one for one, node in self._witnesses.items() if node == hello.node]:
            del self._witnesses[older]
            older.close()
        self._witnesses[stream] = hello.node
        logger.info("hears %d nodes", self.witnesses)
        try:
            while True:
                message = FROM_AGENT.validate_python((await stream.receive(IDLE_SECONDS)).body)
                if not isinstance(message, LeaderSilence):
                    raise StreamClosed(f"a witness may not say {message.kind}")
                if stream in self._witnesses:
                    self._succession.said(hello.node, message.seconds, time.monotonic())
                stream.send(Ack(sequence=0))  # else a witness could not tell this coordinator from a dead one
        finally:
            if self._witnesses.pop(stream, None) is not None:
                self._succession.gone(hello.node)
                logger.info("hears %d nodes", self.witnesses)

    @property
    def witnesses(self) -> int:
        """How many nodes are heard."""
        return len(self._witnesses)
