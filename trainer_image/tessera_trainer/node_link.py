"""The agent's stream to the coordinator, on an event loop of its own thread.

Owns what this node holds (generation, offer, reports not yet safe) and tells it anew on every stream, so that either
end may vanish and return at any time. The agent's main thread asks through the plain methods; none of them blocks but
those that say so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine

from tessera_api.drill import Drill
from tessera_api.exit_codes import ExitCode
from tessera_api.inspection import Inspect, Inspected, Prove, RankSeen
from tessera_api.kept_part import NOTHING, Keeps
from tessera_api.keys import Ring
from tessera_api.messages import (
    BEAT_SECONDS,
    Ack,
    Assign,
    Closed,
    Committed,
    Finished,
    FromCoordinator,
    Hello,
    Holding,
    Join,
    Leave,
    Processes,
    Report,
    Restart,
    Role,
    Standby,
    StatusAnswer,
    StepRecord,
    StopOrder,
    Verdict,
    VerdictWord,
    Welcome,
    understood,
)
from tessera_api.record import Record
from tessera_api.seat import Pieces, Seat
from tessera_api.stream import MessageStream, StreamClosed
from tessera_trainer.identity import Identity
from tessera_trainer.leader_search import CONNECT_SECONDS, RETRY_SECONDS, Endpoint, LeaderSearch
from tessera_trainer.outbox import Outbox, as_sent
from tessera_trainer.pieces_asked import PiecesAsked
from tessera_trainer.progress import Progress
from tessera_trainer.shaky_stream import shake

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 4.0
"""A coordinator answers each beat; one that does not for so long is looked for anew."""
STEP_FLUSH_SECONDS = 0.1


class RunClosed(Exception):
    """The run is over or stopped; `exit_code` is what the agent is to exit with."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class NodeLink:
    """See the module. `facts` gives the node's processes, `to_trainers` hands a document to every trainer of this
    node."""

    def __init__(
        self,
        identity: Identity,
        ring: Ring,
        endpoints: tuple[Endpoint, ...],
        facts: Callable[[], Processes],
        to_trainers: Callable[[dict[str, object]], None],
    ) -> None:
        self._identity, self._facts, self._to_trainers = identity, facts, to_trainers
        self._search = LeaderSearch(endpoints, ring, self._talk, self._hello)
        self.loop = asyncio.new_event_loop()
        self._stream: MessageStream | None = None
        self._outbox = Outbox()
        self._term, self._welcomed = 0, None  # type: tuple[int, float | None]
        self._open: Seat | None = None
        self.pieces = PiecesAsked(self._send)
        self._left: Holding | None = None
        self._join: Join | None = None
        self._offers = 0
        self._stop: tuple[StopOrder, float] | None = None
        self.progress = Progress()
        self._collective_error = self._finished = False
        self._restart: str | None = None
        self._closed: Closed | None = None
        self.inspect: Callable[[], tuple[RankSeen, ...]] = lambda: ()
        """What each trainer of this node is doing; may take a second."""
        self.drill: Callable[[Drill], None] = lambda drill: None
        """Does to this node what it is told to."""
        self._inspection: asyncio.Task[None] | None = None
        self._redo = self._go = self._prove = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run_loop, daemon=True, name="tessera-link")

    # ---- for the agent's main thread -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for the coordinator, for ever."""
        self._thread.start()

    def next_generation(self, store_port: int, fingerprint: str, keeps: Keeps = NOTHING) -> Seat | None:
        """Offer this node and wait, without limit, until it is given a generation. None: it has to prove itself in full
        before it is offered anew. Raises RunClosed."""
        self.loop.call_soon_threadsafe(self._offer, store_port, fingerprint, keeps)
        with self._change:
            self._change.wait_for(lambda: self._closed or self._prove or (self._join is None and self._open))
            if self._closed is not None:
                raise RunClosed(self._closed.reason, self._closed.exit_code)
            prove, self._prove = self._prove, False
            return None if prove else self._open

    def leaving(self) -> None:
        """The workers of the present generation are gone: it is no longer held. Returns once that is so."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(self._leave_generation, done)
        done.wait(5.0)

    def restart_wanted(self) -> str | None:
        """Why the workers must be stopped, if they must. Never blocks."""
        if self._closed is not None:
            return self._closed.reason
        return self._restart

    @property
    def closed(self) -> Closed | None:
        """How the run ended, once it has."""
        return self._closed

    def verdict(self) -> VerdictWord:
        """Our workers are done: wait, without limit, until the coordinator has heard so of all nodes, or wants it
        done again. Raises RunClosed where the run ended otherwise: nobody is there to do it again."""
        assert self._open is not None
        with self._change:
            self._change.wait_for(
                lambda: self._go or self._redo or self._restart is not None or self._closed is not None
            )
        if self._go or (self._closed is not None and self._closed.exit_code == ExitCode.DONE):
            return VerdictWord.GO
        if self._closed is not None:
            raise RunClosed(self._closed.reason, self._closed.exit_code)
        return VerdictWord.REDO

    def hurt(self, lossy: bool, seconds: float) -> None:
        """A drill: no coordinator is reached for so long, or as over a bad network. From any thread."""
        if lossy:
            asyncio.run_coroutine_threadsafe(shake(lambda: self._stream, seconds), self.loop)
        else:
            self.loop.call_soon_threadsafe(self._search.cut, seconds)

    @property
    def connected(self) -> bool:
        """Whether a coordinator hears this node."""
        return self._stream is not None

    @property
    def node_name(self) -> str:
        """This node's name."""
        return self._identity.node

    def finished(self, generation: int) -> None:
        """All trainers of this node ended with success."""
        self.report(Finished(generation=generation))

    def report(self, report: Report) -> None:
        """Say something that must arrive. From any thread."""
        self.loop.call_soon_threadsafe(self._report, report)

    def farewell(self, reason: str, seconds: float = 1.0) -> None:
        """Announce this node's end and give the words `seconds` to leave."""
        done = asyncio.run_coroutine_threadsafe(self._say_farewell(reason), self.loop)
        try:
            done.result(seconds)
        except (TimeoutError, StreamClosed):
            logger.info("left without a word: no coordinator in reach")

    # ---- for the trainers' lines (on the loop) ---------------------------------------------------------------------

    @property
    def open(self) -> Seat | None:
        """The generation that this node runs."""
        return self._open

    @property
    def stop_order(self) -> tuple[StopOrder, float] | None:
        """The order to park that is in force, and when it came (monotonic)."""
        return self._stop

    def stepped(self, record: StepRecord, report: bool) -> None:
        """A trainer of this node completed a step; `report` it if it is rank 0's."""
        self.progress.stepped(record.step, time.monotonic())
        if report and self._outbox.step(record):
            self.loop.call_later(STEP_FLUSH_SECONDS, self._flush)

    def met_collective_error(self) -> None:
        """A trainer of this node met one: a restarted coordinator will be told again."""
        self._collective_error = True

    # ---- on the loop -----------------------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        for work in (*self._search.works(), self._beat):
            self.loop.create_task(self._keep_on(work))
        self.loop.run_forever()

    async def _keep_on(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """For ever: a bug costs one turn, since a node whose link has ended would be taken for lost."""
        while True:
            try:
                await work()
            except Exception:
                logger.exception("the link stumbled")
            await asyncio.sleep(RETRY_SECONDS)

    def _offer(self, store_port: int, fingerprint: str, keeps: Keeps) -> None:
        self._offers += 1
        offer = {"sequence": self._offers, "store_port": store_port, "fingerprint": fingerprint, **keeps._asdict()}
        join = Join.model_validate({**offer, "left": self._left, "processes": self._facts()})
        with self._change:
            self._join, self._open, self._restart = join, None, None
            self._change.notify_all()
        self._send(join)

    def _leave_generation(self, done: threading.Event) -> None:
        self._flush()
        self._left = self._holding() or self._left
        with self._change:
            self._open, self._restart, self._stop = None, None, None
            self._redo = self._go = False
        self.progress, self._collective_error, self._finished = Progress(), False, False
        done.set()

    def _holding(self) -> Holding | None:
        held = self._open
        if held is None:
            return None
        return Holding(
            term=held.term,
            generation=held.generation,
            digest=held.digest,
            collective_error=self._collective_error,
            finished=self._finished,
        )

    def _report(self, report: Report) -> None:
        self._flush()
        self._finished = self._finished or isinstance(report, Finished)
        number, kept = self._outbox.add(report)
        self._send(kept, number)

    def _flush(self) -> None:
        while self._open is not None and (steps := self._outbox.take_steps(self._open.generation)) is not None:
            self._send(steps[1], steps[0])

    async def _beat(self) -> None:
        while True:
            self._send_beat()
            await asyncio.sleep(BEAT_SECONDS)

    def _send_beat(self, anew: bool = False) -> None:
        generation = self._open.generation if self._open else 0
        self._send(self.progress.beat(generation, self._facts(), time.monotonic(), anew))

    def _send(self, message: Record, number: int = 0) -> None:
        if self._stream is None:
            return
        held = self._open
        try:
            self._stream.send(as_sent(message, time.time()), self._term, held.generation if held else 0, number)
        except StreamClosed as error:
            logger.info("not sent: %s", error)

    async def _say_farewell(self, reason: str) -> None:
        self._report(Leave(reason=reason))
        if self._stream is not None:
            await self._stream.drain()

    async def _talk(self, stream: MessageStream) -> None:
        try:
            await self._serve(stream)
        finally:
            self._stream = None

    async def _serve(self, stream: MessageStream) -> None:
        stream.send(self._hello(Role.AGENT))
        welcome = understood((await stream.receive(CONNECT_SECONDS)).body)
        if not isinstance(welcome, Welcome) or welcome.term < self._term:
            raise StreamClosed(f"no welcome of term {self._term} or newer")
        self._term, self._stream = welcome.term, stream
        self._welcomed = self._welcomed or time.monotonic()
        self._search.welcomed(welcome.term)
        logger.info("coordinator of term %d, under key %d", welcome.term, stream.keys.number)
        # At once: a coordinator that heard nothing for a while must not take that for standstill.
        self._send_beat(anew=True)
        if self._join is not None:
            self._send(self._join)
        self.pieces.again()
        for number, report in self._outbox.unsafe():
            self._send(report, number)
        while True:
            message = understood((await stream.receive(SILENCE_SECONDS)).body)
            self._search.heard()
            if message is not None:
                self._heard(message)

    def _hello(self, role: Role) -> Hello:
        return Hello(
            role=role,
            node=self._identity.node,
            incarnation=self._identity.incarnation,
            host=self._identity.host,
            processes=self._identity.processes,
            lived=time.monotonic() - self._identity.began,
            known=time.monotonic() - self._welcomed if self._welcomed is not None else 0.0,
            holding=self._holding() if role is Role.AGENT else None,
            term_seen=self._term,
        )

    def _heard(self, message: FromCoordinator) -> None:  # noqa: C901, PLR0912 - one branch a message
        match message:
            case Ack(sequence=number):
                self._outbox.acknowledged(number)
            case Assign():
                self._assigned(message)
            case Pieces():
                self.pieces.heard(message)
            case Restart(generation=generation, reason=reason):
                if self._open is not None and self._open.generation == generation:
                    self._wake(restart=reason)
            case StopOrder(generation=generation, reason=reason, deadline_seconds=seconds):
                if self._open is not None and self._open.generation == generation:
                    self._stop = (message, time.monotonic())
                    self._to_trainers({"stop": {"reason": reason, "seconds": seconds}})
            case Committed(generation=generation, step=step):
                self._outbox.committed(generation, step)
                if self._open is not None and self._open.generation == generation:
                    self._to_trainers({"committed": step})
            case Verdict(generation=generation, say=say):
                if self._open is not None and self._open.generation == generation:
                    self._judged(say)
            case Closed():
                self._end(message)
            case Inspect(generation=generation):
                if self._open is not None and self._open.generation == generation:
                    self._send_beat()  # whether they have come further after all
                    self._inspection = self.loop.create_task(self._say_what_they_do(generation))
            case Drill():
                self.drill(message)
            case Prove(join=sequence, reason=reason):
                self._withdraw(sequence, reason)
            case Welcome() | Standby() | StatusAnswer():
                logger.info("unexpected: %s", message.kind)

    async def _say_what_they_do(self, generation: int) -> None:
        self._send(Inspected(generation=generation, ranks=await asyncio.to_thread(self.inspect)))

    def _assigned(self, assign: Assign) -> None:
        if self._join is None or assign.join != self._join.sequence:
            return
        self._outbox.generation_began(assign.seat.generation)
        with self._change:
            self._open, self._join, self._stop = assign.seat, None, None
            self._change.notify_all()

    def _withdraw(self, sequence: int, reason: str) -> None:
        if self._join is not None and self._join.sequence == sequence:
            logger.warning("this node has to prove itself: %s", reason)
            with self._change:
                self._join, self._prove = None, True
                self._change.notify_all()

    def _wake(self, restart: str) -> None:
        with self._change:
            self._restart = self._restart or restart
            self._change.notify_all()

    def _judged(self, say: VerdictWord) -> None:
        with self._change:
            self._go, self._redo = say is VerdictWord.GO, say is VerdictWord.REDO
            self._change.notify_all()

    def _end(self, closed: Closed) -> None:
        with self._change:
            self._closed = closed
            self._change.notify_all()
