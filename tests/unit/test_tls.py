"""Streams in TLS, under numbered keys that change while a run lives: who is let in, who is spoken to, who may stay."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

import pytest

from tessera_api.keys import Ring, only
from tessera_api.messages import Hello, Note, Role, StepRecord, Steps
from tessera_api.stream import TLS_BUFFER_BYTES, MessageStream, StreamClosed, dial
from tessera_coordinator import door
from tessera_coordinator.client import Address, begin
from tessera_coordinator.core import rotation
from tessera_operator.keys import ring, run_keys
from tests.unit.key_folders import RUN, SECRET, put_key
from tests.unit.live_coordinator import LIMIT_S, FakePeer, LiveCoordinator, LiveNode, eventually, tell


@pytest.fixture
def coordinators(tmp_path: Path) -> Ring:
    return put_key(tmp_path / "coordinator", 1, coordinators=True)


@pytest.fixture
def nodes(tmp_path: Path) -> Ring:
    return put_key(tmp_path / "node", 1)


def a_hello(node: str = "node-0", role: Role = Role.AGENT) -> Hello:
    return Hello(role=role, node=node, incarnation="i1")


async def says_hello(port: int, held: Ring, role: Role = Role.AGENT) -> MessageStream:
    """A welcomed stream."""
    stream, _ = await begin(Address("127.0.0.1", port), held, a_hello(role=role))
    return stream


async def _joins(port: int, held: Ring) -> FakePeer:
    """A node that is given a generation."""
    peer = FakePeer(await says_hello(port, held), "node-0")
    await peer.join()
    return peer


def test_a_node_trains_under_a_certificate_that_it_holds(tmp_path: Path, coordinators: Ring, nodes: Ring) -> None:
    with LiveCoordinator(tmp_path, ring=coordinators) as place, LiveNode(place, "node-0", tmp_path, nodes) as node:
        seat = node.join()
        assert (seat.place, seat.nodes) == (0, 1)


def test_the_operator_speaks_to_a_run_with_what_it_derives(tmp_path: Path, coordinators: Ring) -> None:
    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        tell(says_hello(place.port, lambda: ring(SECRET, RUN, 1, None), Role.CONTROLLER))


def test_a_node_may_not_speak_for_the_operator(tmp_path: Path, coordinators: Ring, nodes: Ring) -> None:
    with LiveCoordinator(tmp_path, ring=coordinators) as place, pytest.raises(StreamClosed):
        tell(says_hello(place.port, nodes, Role.CONTROLLER))


@pytest.mark.parametrize("run", ["uid-2", "uid-1"], ids=["another run", "another installation"])
def test_a_node_with_keys_of_elsewhere_neither_is_let_in_nor_speaks(
    tmp_path: Path, coordinators: Ring, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if run == RUN:
        monkeypatch.setattr("tests.unit.key_folders.SECRET", b"t" * 32)
    elsewhere = put_key(tmp_path / "elsewhere", 1, run=run)
    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        with pytest.raises(StreamClosed, match="takes none of our keys"):
            tell(says_hello(place.port, elsewhere))
        assert place.events("NodeSeen") == []


def test_the_certificate_alone_lets_nobody_in(tmp_path: Path, coordinators: Ring, nodes: Ring) -> None:
    (tmp_path / "node" / "keys" / "1" / "key").write_bytes(b"x" * 32)
    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        with pytest.raises(StreamClosed):
            tell(says_hello(place.port, nodes))
        assert place.events("NodeSeen") == []


def test_who_speaks_no_tls_learns_nothing(tmp_path: Path, coordinators: Ring) -> None:
    async def knock(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"TESSERA/1\n" + b"n" * 16)
        heard = await reader.read()
        writer.close()
        return heard

    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        assert b"TESSERA" not in tell(knock(place.port))


def test_what_is_said_can_be_read_by_nobody_between(tmp_path: Path, coordinators: Ring, nodes: Ring) -> None:
    passed = bytearray()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            passed.extend(data)
            writer.write(data)
        writer.close()

    async def story(port: int) -> None:
        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

        server = await asyncio.start_server(between, "127.0.0.1", 0)
        peer = await _joins(server.sockets[0].getsockname()[1], nodes)
        peer.stream.close()
        server.close()

    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        tell(story(place.port))
    assert len(passed) > 500
    assert not re.search(rb"TESSERA/|node-0|welcome|join", bytes(passed))


def test_somebody_else_in_the_coordinators_place_hears_nothing(tmp_path: Path, nodes: Ring) -> None:
    heard = bytearray()

    async def story() -> None:
        other = put_key(tmp_path / "other", 1, coordinators=True, run="uid-2")()[0]

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.extend(await reader.read())

        server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=other.for_server())
        with pytest.raises(StreamClosed, match="takes none of our keys"):
            await dial("127.0.0.1", server.sockets[0].getsockname()[1], nodes, LIMIT_S)
        server.close()

    tell(story())
    assert not heard


def test_a_key_that_came_after_the_start_is_taken_at_once(tmp_path: Path, coordinators: Ring, nodes: Ring) -> None:
    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        put_key(tmp_path / "coordinator", 2, coordinators=True)
        put_key(tmp_path / "node", 2)

        assert tell(says_hello(place.port, nodes)).keys.number == 2


def test_a_node_whose_key_came_sooner_than_the_coordinators_speaks_under_the_one_before(
    tmp_path: Path, coordinators: Ring, nodes: Ring
) -> None:
    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        put_key(tmp_path / "node", 2)

        assert tell(says_hello(place.port, nodes)).keys.number == 1


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(rotation, "MOVE_SECONDS", 0.1)


@pytest.mark.usefixtures("quickly")
def test_a_node_in_training_moves_to_the_new_key_and_nothing_else_happens(
    tmp_path: Path, coordinators: Ring, nodes: Ring
) -> None:
    with LiveCoordinator(tmp_path, ring=coordinators) as place, LiveNode(place, "node-0", tmp_path, nodes) as node:
        opening = node.join()
        put_key(tmp_path / "coordinator", 2, coordinators=True)
        put_key(tmp_path / "node", 2)

        def under_the_new_key() -> bool:
            stream = node.link._stream
            return stream is not None and stream.keys.number == 2

        eventually(lambda: under_the_new_key() or None, "it moves")
        assert node.link.open == opening
        assert node.link.restart_wanted() is None
        assert [event["node"] for event in place.events("NodeLost")] == []


@pytest.mark.usefixtures("quickly")
def test_a_member_whose_new_key_is_late_stays_and_a_newcomer_with_the_old_one_does_not_come_in(
    tmp_path: Path, coordinators: Ring, nodes: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "GRACE_SECONDS", 0.3)
    with LiveCoordinator(tmp_path, ring=coordinators) as place, LiveNode(place, "node-0", tmp_path, nodes) as node:
        opening = node.join()
        put_key(tmp_path / "coordinator", 2, coordinators=True)

        async def refused() -> bool:
            """Tries until a stranger with the old key is refused."""
            async with asyncio.timeout(LIMIT_S):
                while True:
                    try:
                        (await begin(Address("127.0.0.1", place.port), nodes, a_hello("node-9")))[0].close()
                    except StreamClosed:
                        return True
                    await asyncio.sleep(0.05)

        assert tell(refused())
        eventually(lambda: node.link._stream, "the member is there")
        assert node.link.open == opening
        assert node.link.restart_wanted() is None


def test_the_pair_of_a_key_is_the_same_each_time_and_of_no_other_run_or_number() -> None:
    first = run_keys(SECRET, RUN, 1)
    run_keys.cache_clear()

    assert run_keys(SECRET, RUN, 1) == first
    others = (run_keys(SECRET, RUN, 2), run_keys(SECRET, "uid-2", 1), run_keys(b"t" * 32, RUN, 1))
    for part in ("run", "control", "certificate", "private"):
        assert len({getattr(keys, part) for keys in (first, *others)}) == 4
    ssl.create_default_context(cadata=first.certificate)  # OpenSSL reads it


def test_without_tls_too_a_node_of_another_run_is_never_let_in(tmp_path: Path) -> None:
    with LiveCoordinator(tmp_path) as place, LiveNode(place, "node-1", tmp_path, ring=only(b"x" * 32)):
        tell(FakePeer.connect(place, "node-0"))

        eventually(lambda: place.events("NodeSeen"), "a node is seen")
        assert [event["node"] for event in place.events("NodeSeen")] == ["node-0"]


def test_a_connection_costs_no_more_memory_than_a_record(tmp_path: Path, coordinators: Ring, nodes: Ring) -> None:
    async def buffers(port: int) -> list[int]:
        streams = [await dial("127.0.0.1", port, nodes, LIMIT_S) for _ in range(3)]
        sizes = [len(stream._writer.transport._ssl_protocol._ssl_buffer) for stream in streams]  # type: ignore[attr-defined]
        for stream in streams:
            stream.close()
        return sizes

    with LiveCoordinator(tmp_path, ring=coordinators) as place:
        assert max(tell(buffers(place.port))) <= TLS_BUFFER_BYTES


def test_a_message_of_many_records_arrives_whole(tmp_path: Path, coordinators: Ring, nodes: Ring) -> None:
    with LiveCoordinator(tmp_path, ring=coordinators) as place:

        async def story() -> None:
            peer = await _joins(place.port, nodes)
            peer.say(
                Note(generation=1, name="Long", message="x" * 2000, numbers={f"n{i}": float(i) for i in range(32)}), 1
            )
            peer.say(Steps(generation=1, records=tuple(_steps(200))), 2)
            peer.stream.close()

        tell(story())
        eventually(lambda: place.event("Note"), "the note")


def _steps(count: int) -> list[StepRecord]:
    numbers = {f"number-{place:030d}": 1.0 for place in range(32)}
    return [StepRecord(step=step, tokens=step, loss=1.0, time=1.0, numbers=numbers) for step in range(1, count + 1)]
