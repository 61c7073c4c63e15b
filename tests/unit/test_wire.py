"""Authenticated frames: what one end seals the other opens, once and in order; anything else is refused in words."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_api.wire import (
    FRAME_LIMITS,
    GREETING,
    HEADER_BYTES,
    NONCE_BYTES,
    Channel,
    Envelope,
    Side,
    WireError,
    greeting,
    read_greeting,
)

KEY = b"k" * 32
SERVER_NONCE, CLIENT_NONCE = b"s" * NONCE_BYTES, b"c" * NONCE_BYTES

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def channel(side: Side, key: bytes = KEY, client_nonce: bytes = CLIENT_NONCE) -> Channel:
    return Channel(key, SERVER_NONCE, client_nonce, side)


def envelope(text: str = "hello") -> Envelope:
    return Envelope(term=3, generation=7, sequence=1, body={"kind": text})


def take(receiver: Channel, frame: bytes) -> Envelope:
    header, body = frame[:HEADER_BYTES], frame[HEADER_BYTES:]
    assert receiver.body_length(header) == len(body)
    return receiver.open(header, body)


@settings(max_examples=60, deadline=None)
@given(bodies=st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=5), min_size=1, max_size=4))
def test_frames_come_out_as_they_went_in_and_in_order(bodies: list[dict[str, object]]) -> None:
    client, server = channel(Side.CLIENT), channel(Side.SERVER)
    sent = [Envelope(number, 2 * number, 3 * number, body) for number, body in enumerate(bodies)]

    there = [take(server, client.seal(each)) for each in sent]
    back = [take(client, server.seal(each)) for each in sent]

    assert there == back == sent


@pytest.mark.parametrize(
    "receiver",
    [
        pytest.param(channel(Side.SERVER, key=b"x" * 32), id="another run's key"),
        pytest.param(channel(Side.SERVER, client_nonce=b"d" * NONCE_BYTES), id="another session"),
        pytest.param(channel(Side.CLIENT), id="an end that hears its own words"),
    ],
)
def test_a_frame_is_opened_only_by_the_other_end_of_its_own_session(receiver: Channel) -> None:
    frame = channel(Side.CLIENT).seal(envelope())

    with pytest.raises(WireError, match="authentication code is wrong"):
        take(receiver, frame)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(min_value=4), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(place: int, bit: int) -> None:
    frame = bytearray(channel(Side.CLIENT).seal(envelope()))
    frame[4 + place % (len(frame) - 4)] ^= 1 << bit

    with pytest.raises(WireError, match="authentication code is wrong"):
        take(channel(Side.SERVER), bytes(frame))


def test_a_frame_that_comes_again_is_refused() -> None:
    client, server = channel(Side.CLIENT), channel(Side.SERVER)
    frame = client.seal(envelope())
    take(server, frame)

    with pytest.raises(WireError, match="out of order"):
        take(server, frame)


def test_a_frame_that_overtakes_another_is_refused() -> None:
    client, server = channel(Side.CLIENT), channel(Side.SERVER)
    client.seal(envelope("first"))

    with pytest.raises(WireError, match="out of order"):
        take(server, client.seal(envelope("second")))


@pytest.mark.parametrize("side", list(Side))
def test_a_message_beyond_its_sides_limit_is_not_sealed_and_the_next_one_is_still_in_order(side: Side) -> None:
    sender = channel(side)
    receiver = channel(Side.SERVER if side is Side.CLIENT else Side.CLIENT)

    with pytest.raises(WireError, match="bytes; at most"):
        sender.seal(envelope("x" * FRAME_LIMITS[side]))

    assert take(receiver, sender.seal(envelope())) == envelope()


@pytest.mark.parametrize("sender", list(Side))
def test_a_length_beyond_the_senders_limit_is_refused_before_its_body_is_read(sender: Side) -> None:
    receiver = channel(Side.SERVER if sender is Side.CLIENT else Side.CLIENT)

    with pytest.raises(WireError, match="a frame of"):
        receiver.body_length(struct.pack(">I", FRAME_LIMITS[sender] + 1) + bytes(32))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: xxxxx", id="a browser"),
        pytest.param(b"TESSERA/9\n" + bytes(NONCE_BYTES), id="another wire version"),
        pytest.param(GREETING + bytes(NONCE_BYTES - 1), id="too short"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_another_greeting_is_no_tessera_stream(data: bytes) -> None:
    with pytest.raises(WireError, match="not a Tessera stream"):
        read_greeting(data)


def test_a_greeting_carries_the_nonce() -> None:
    assert read_greeting(greeting(CLIENT_NONCE)) == CLIENT_NONCE


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[1, 2]", b'{"t": 1}', b'{"t": Infinity, "g": 0, "s": 0, "b": {}}', b"\xff\xfe"],
)
def test_an_authentic_frame_that_is_no_envelope_is_refused(body: bytes) -> None:
    client, server = channel(Side.CLIENT), channel(Side.SERVER)
    code = client._code(Side.CLIENT, 0, body)

    with pytest.raises(WireError, match="not an envelope"):
        server.open(struct.pack(">I", len(body)) + code, body)
