"""Where the leading coordinator is: the stream to it, renewed for ever, and a thin one to each coordinator that stands
by, which hears how long the leader has been silent and says when it leads itself (design.md §2.1).

What must stay true: the leader of the highest term seen is obeyed, and found at once when a standby takes over; time
in which this process was not awake is no silence of the leader's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from tessera_api.keys import Ring
from tessera_api.messages import BEAT_SECONDS, Hello, LeaderSilence, Role, Standby, Welcome, understood
from tessera_api.stream import MessageStream, StreamClosed, dial

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
RETRY_SECONDS = 0.3
AWAKE_SECONDS = 1.5
"""A report that is late by more was held up here: the leader's silence is counted anew."""
STANDBY_SILENCE_SECONDS = 4.0
"""A standby answers each word; one that does not for so long is looked for anew."""

Endpoint = tuple[str, int]


class LeaderSearch:
    """See the module. `talk` serves one stream to a coordinator that may lead, until it ends; `hello` gives the words
    that a witness begins with. All methods belong to the link's event loop."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        ring: Ring,
        talk: Callable[[MessageStream], Awaitable[None]],
        hello: Callable[[Role], Hello],
    ) -> None:
        self._endpoints, self._ring, self._talk, self._hello = endpoints, ring, talk, hello
        self._heard = time.monotonic()
        self._term = 0
        self._at: Endpoint | None = None
        """Where the stream to the leader leads, or is being opened."""
        self._led = False
        self._next: Endpoint | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._cut_until = 0.0

    def cut(self, seconds: float) -> None:
        """A drill: nobody is reached for so long."""
        self._cut_until = time.monotonic() + seconds
        if self._attempt is not None:
            self._attempt.cancel()

    async def _dial(self, endpoint: Endpoint) -> MessageStream:
        if time.monotonic() < self._cut_until:
            raise StreamClosed("cut by a drill")
        return await dial(*endpoint, self._ring, CONNECT_SECONDS)

    def welcomed(self, term: int) -> None:
        """The coordinator at the other end of `talk`'s stream leads."""
        self._term, self._led, self._heard = max(term, self._term), True, time.monotonic()

    def heard(self) -> None:
        """The leader said something."""
        self._heard = time.monotonic()

    def works(self) -> tuple[Callable[[], Coroutine[None, None, None]], ...]:
        """What has to run for ever: the stream to the leader, and where there are two coordinators the thin ones."""
        several = self._endpoints if len(self._endpoints) > 1 else ()
        return (self._keep_leader, *(partial(self._keep_witness, endpoint) for endpoint in several))

    async def _keep_leader(self) -> None:
        """One stream after the other, for ever, the endpoints in turn unless one is known to lead."""
        self._heard = time.monotonic()  # before this nobody was looked for
        for turn in itertools.cycle(self._endpoints):
            self._at, self._next = self._next or turn, None
            self._attempt = asyncio.ensure_future(self._converse(self._at))
            try:
                await asyncio.wait((self._attempt,))
            finally:
                self._attempt.cancel()
                self._led = False
            if self._next is None:
                await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))

    async def _converse(self, endpoint: Endpoint) -> None:
        stream = None
        try:
            stream = await self._dial(endpoint)
            await self._talk(stream)
        except (StreamClosed, OSError) as error:
            logger.info("no coordinator at %s:%d: %s", *endpoint, error or type(error).__name__)
        except Exception:
            logger.exception("the link stumbled")
        finally:
            if stream is not None:
                stream.close()

    async def _keep_witness(self, endpoint: Endpoint) -> None:
        """A thin stream to `endpoint` for as long as it does not lead, for ever."""
        while True:
            if not (self._led and self._at == endpoint):
                try:
                    await self._witness(endpoint)
                except (StreamClosed, OSError) as error:
                    logger.debug("no standby at %s:%d: %s", *endpoint, error or type(error).__name__)
            await asyncio.sleep(BEAT_SECONDS * random.uniform(0.5, 1.0))

    async def _witness(self, endpoint: Endpoint) -> None:
        """Until the other end closes, or leads."""
        stream = await self._dial(endpoint)
        telling = None
        try:
            stream.send(self._hello(Role.WITNESS))
            while True:
                limit = CONNECT_SECONDS if telling is None else STANDBY_SILENCE_SECONDS
                match understood((await stream.receive(limit)).body):
                    case Standby():
                        telling = telling or asyncio.ensure_future(self._tell(stream))
                    case Welcome(term=term):
                        return self._leads(endpoint, term)
                    case _:
                        pass
        finally:
            if telling is not None:
                telling.cancel()
            stream.close()

    def _leads(self, endpoint: Endpoint, term: int) -> None:
        """The coordinator at `endpoint` leads under `term`: whoever led before is left, if that is news."""
        if term > self._term or (term == self._term and not self._led and self._at != endpoint):
            logger.info("the coordinator at %s:%d leads, term %d", *endpoint, term)
            self._next = endpoint
            if self._attempt is not None:
                self._attempt.cancel()

    async def _tell(self, stream: MessageStream) -> None:
        while True:
            now = time.monotonic()
            try:
                stream.send(LeaderSilence(seconds=now - self._heard))
            except StreamClosed:
                return  # the reading side hears of it
            await asyncio.sleep(BEAT_SECONDS)
            if time.monotonic() - now > BEAT_SECONDS + AWAKE_SECONDS:
                self._heard = time.monotonic()
