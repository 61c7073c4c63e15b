"""A real coordinator on loopback in a thread of the test: server, log in a folder, journal, live files; agents that
say what a test wants; and a node's link with its trainers' lines."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.exit_codes import ExitCode
from tessera_api.keys import Keys, Ring, only
from tessera_api.log import Entry, StoredObject, parse_entry
from tessera_api.messages import (
    FROM_COORDINATOR,
    Assign,
    FromCoordinator,
    Hello,
    Holding,
    Join,
    Part,
    Processes,
    Role,
    Welcome,
)
from tessera_api.orders import StopRun
from tessera_api.record import Record
from tessera_api.run_directory import LOG_PREFIX, RunDirectory
from tessera_api.seat import Seat
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.wire import Side
from tessera_coordinator.accounts import Accounts, Past
from tessera_coordinator.coordinator import Coordinator, Terms
from tessera_coordinator.core.formation import Wanted
from tessera_coordinator.core.incidents import Incidents
from tessera_coordinator.core.ledger import Ledger
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.silence import Limits
from tessera_coordinator.journal import Journal, read
from tessera_coordinator.live_files import LiveFiles
from tessera_coordinator.recollection import recollect
from tessera_coordinator.records import Records
from tessera_coordinator.run_log import RunLog
from tessera_coordinator.scribe import Scribe
from tessera_coordinator.server import Server
from tessera_store import open_store
from tessera_trainer.identity import Identity
from tessera_trainer.node_link import NodeLink
from tessera_trainer.trainer_lines import TrainerLines

LIMIT_S = 20.0
KEY = b"k" * 32
FACTS = Processes(agent_pid=4242)
Heard = TypeVar("Heard", bound=Record)
Value = TypeVar("Value")


def eventually(look: Callable[[], Value | None], what: str) -> Value:
    """What `look` sees once it sees something."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(0.01)
    raise AssertionError(f"not within {LIMIT_S:.0f} s: {what}")


class LiveCoordinator:
    """`with LiveCoordinator(folder) as place`: serves until the block ends or the run does."""

    def __init__(
        self,
        folder: Path,
        count: int = 1,
        least: int = 1,
        adopt: bool = False,
        control: bytes | None = None,
        ring: Ring | None = None,
    ) -> None:
        self.directory = RunDirectory(folder)
        self.store = open_store((folder / "storage").as_uri())
        self._wanted, self._adopt, self._ring = (count, least), adopt, ring or only(KEY, control)
        self.port = 0
        self.code: ExitCode | None = None
        self.error: Exception | None = None
        self.coordinator: Coordinator | None = None
        self._begun = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="live-coordinator")

    def __enter__(self) -> LiveCoordinator:
        self._thread.start()
        assert self._begun.wait(LIMIT_S)
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *failure: object) -> None:
        if self._task is not None:
            with suppress(RuntimeError):  # its loop has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.ended()

    def ended(self) -> ExitCode | None:
        """Waits for the end; the exit code, None if it was cancelled or failed."""
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self.code

    def _run(self) -> None:
        async def main() -> None:
            self._task = asyncio.create_task(self._serve())
            with suppress(asyncio.CancelledError):
                await self._task

        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(main())
        except Exception as error:  # noqa: BLE001 - for the test to look at
            self.error = error
        finally:
            self._begun.set()

    async def _serve(self) -> None:
        log = RunLog(self.store)
        before = log.read_all()
        claim = log.claim("test", time.time())
        journal = Journal(self.directory.root, self.store, claim.term)
        files = LiveFiles(self.directory)
        known = recollect(read(self.store, self.directory.root))
        past = Past(time.time(), known.newest)
        accounts = Accounts(Incidents.resumed(list(known.incidents)), Ledger(), past)
        wanted = Wanted(*self._wanted, first_generation=before.generation + 1)
        membership = Membership(wanted, Limits(), time.monotonic())
        scribe = Scribe(log)
        records = Records(journal, files)
        self.coordinator = Coordinator(Terms("tiny", 10, 3, 1), membership, scribe, records, accounts)
        self.coordinator.begin(claim, self._adopt)
        try:
            self.code = await Server(self.coordinator, scribe, self._ring).serve("127.0.0.1", 0, self._ready)
        finally:
            records.close()

    async def _ready(self, port: int) -> None:
        self.port = port
        self._begun.set()

    # ---- what can be seen of it ------------------------------------------------------------------------------------

    def log(self) -> list[Entry]:
        """Every entry."""
        return [parse_entry(self.store.get(info.name)) for info in self.store.list(LOG_PREFIX)]

    def entry(self, kind: type[Heard], at_least: int = 1) -> Heard:
        """The newest entry of a kind, once there are so many."""

        def look() -> list[Heard]:
            entries: list[Record] = [*self.log()]
            found = [entry for entry in entries if isinstance(entry, kind)]
            return found if len(found) >= at_least else []

        return eventually(look, f"{at_least} x {kind.__name__} in the log")[-1]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of that name so far."""
        lines = [json.loads(line) for line in self.directory.events.read_text().splitlines()]
        return [line for line in lines if line["name"] == name]

    def event(self, name: str) -> dict[str, Any]:
        """The first event of that name, once there is one."""
        return eventually(lambda: self.events(name), f"an event {name}")[0]

    def metrics(self, at_least: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl once there are so many."""

        def look() -> list[dict[str, Any]]:
            found = [json.loads(line) for line in self.directory.metrics.read_text().splitlines()]
            return found if len(found) >= at_least else []

        return eventually(look, f"{at_least} lines of metrics")

    def order_stop(self, reason: str, seconds: float = 60.0) -> None:
        """As Ctrl-C does."""

        async def order() -> None:
            controller = await FakePeer.connect(self, "controller", Role.CONTROLLER)
            controller.say(StopRun(reason=reason, deadline_seconds=seconds), 1)
            await controller.stream.receive(LIMIT_S)
            controller.stream.close()

        asyncio.run(order())


class FakePeer:
    """An agent or controller that says what a test wants."""

    def __init__(self, stream: MessageStream, node: str) -> None:
        self.stream, self.node = stream, node

    @classmethod
    async def open(cls, place: LiveCoordinator, key: bytes = KEY) -> MessageStream:
        """A stream on which nothing was said yet."""
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        return await MessageStream.begin(reader, writer, Keys(key), Side.CLIENT, LIMIT_S)

    @classmethod
    async def connect(
        cls, place: LiveCoordinator, node: str, role: Role = Role.AGENT, holding: Seat | None = None, **hello: Any
    ) -> FakePeer:
        """Welcomed."""
        peer = cls(await cls.open(place), node)
        held = None if holding is None else holds(holding)
        peer.say(Hello(role=role, node=node, incarnation="i1", holding=held, **hello))
        await peer.hear(Welcome)
        return peer

    def say(self, message: Record, number: int = 0) -> None:
        self.stream.send(message, sequence=number)

    async def next(self) -> FromCoordinator:
        message: FromCoordinator = FROM_COORDINATOR.validate_python((await self.stream.receive(LIMIT_S)).body)
        return message

    async def hear(self, kind: type[Heard]) -> Heard:
        """The next message of that kind; what comes before it is passed over."""
        while not isinstance(message := await self.next(), kind):
            pass
        return message

    async def join(self, sequence: int = 1) -> Seat:
        self.say(Join(sequence=sequence, store_port=5000, fingerprint="cpu", processes=FACTS))
        return (await self.hear(Assign)).seat

    async def until_closed(self) -> str:
        """Reads until the coordinator ends the stream; says how."""
        try:
            while True:
                await self.stream.receive(LIMIT_S)
        except StreamClosed as closed:
            return str(closed)


def holds(opening: Seat) -> Holding:
    return Holding(term=opening.term, generation=opening.generation, digest=opening.digest)


def tell(story: Coroutine[Any, Any, Value]) -> Value:
    """Runs a story within a limit."""

    async def limited() -> Value:
        async with asyncio.timeout(3 * LIMIT_S):
            return await story

    return asyncio.run(limited())


def stored(opening: Seat, rank: int, step: int) -> StoredObject:
    """The object of a rank's share, in the generation's own folder."""
    prefix = CheckpointPrefix(step=step, term=opening.term, generation=opening.generation, nonce=opening.nonce)
    return StoredObject(name=part_name(prefix, rank, opening.ranks), size=1, sha256="0" * 64)


def part(opening: Seat, rank: int, step: int) -> Part:
    objects = (stored(opening, rank, step),)
    return Part(generation=opening.generation, rank=rank, step=step, position=10 * step, objects=objects)


RING = only(KEY)


class LiveNode:
    """A node's link and its trainers' lines, real, without torchrun. `with LiveNode(place, "node-0") as node`; in the
    place of a coordinator of the test's own, the ports of several."""

    def __init__(self, place: LiveCoordinator | tuple[int, ...], name: str, folder: Path, ring: Ring = RING) -> None:
        self.lines = TrainerLines(folder / f"{name}.sock")
        identity = Identity(name, "i1", "127.0.0.1", 1)
        ports = place if isinstance(place, tuple) else (place.port,)
        endpoints = tuple(("127.0.0.1", port) for port in ports)
        self.link = NodeLink(identity, ring, endpoints, lambda: FACTS, self.lines.tell)

    def __enter__(self) -> LiveNode:
        self.lines.attach(self.link)
        self.link.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def stop(self) -> None:
        """As if its process had ended: every connection is closed."""
        if self.link.loop.is_closed():
            return

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        loop = self.link.loop
        asyncio.run_coroutine_threadsafe(cancel(), loop).result(LIMIT_S)
        loop.call_soon_threadsafe(loop.stop)
        eventually(lambda: not loop.is_running(), "the link's loop ends")
        loop.close()

    def join(self) -> Seat:
        """Offers itself and waits for a generation."""
        self.link.leaving()
        held = self.link.next_generation(5000, "cpu")
        assert held is not None
        return held

    def environment(self, opening: Seat, rank: int = 0) -> dict[str, str]:
        """What torchrun and the agent would set for a trainer."""
        return {
            "TESSERA_SOCKET": str(self.lines.path),
            "TESSERA_GENERATION": str(opening.generation),
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(opening.ranks),
        }
