"""Between keepers, and from trainers to keepers of other nodes: requests in authenticated frames, bytes behind them.

Frames are those of `tessera_api.wire` under the run's key, so only nodes of the run are served. Bytes travel as they
are, on the network on which the trainers' collectives send the same weights; their digests travel in frames. Every
wait has a limit.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tessera_api.keys import Keys, Ring
from tessera_api.wire import HEADER_BYTES, HELLO_BYTES, NONCE_BYTES, Channel, Envelope, Side, WireError, greeting
from tessera_api.wire import read_greeting as nonce_of

CONNECT_SECONDS = 2.0
STALL_SECONDS = 10.0
"""Whoever neither sends nor takes a byte for so long is left."""
_PIECE_BYTES = 4 << 20


class PeerLost(OSError):
    """The other node is gone, silent, not of this run, or does not hold what it was asked for."""


@dataclass
class PeerStream:
    """One connection, after its greetings."""

    line: socket.socket
    channel: Channel

    def say(self, document: dict[str, Any]) -> None:
        """Raises PeerLost."""
        try:
            self.line.sendall(self.channel.seal(Envelope(0, 0, 0, document)))
        except (OSError, WireError) as error:
            raise PeerLost(f"not said: {error}") from error

    def hear(self) -> dict[str, Any]:
        """The next document. Raises PeerLost."""
        try:
            return self._opened(self.channel, *_frame(self.line, self.channel))
        except (OSError, WireError) as error:
            raise PeerLost(f"not heard: {error or type(error).__name__}") from error

    def send_bytes(self, data: memoryview) -> None:
        """The bytes, and their digest in a frame behind them. Raises PeerLost."""
        digest = hashlib.sha256()
        try:
            for start in range(0, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                digest.update(piece)
                self.line.sendall(piece)
        except OSError as error:
            raise PeerLost(f"not sent: {error}") from error
        self.say({"sha256": digest.hexdigest()})

    def take_bytes(self, into: memoryview) -> str:
        """Fills `into` and returns the digest of it, which is what the other end says that it sent. Raises PeerLost."""
        digest, place = hashlib.sha256(), 0
        while place < len(into):
            try:
                count = self.line.recv_into(into[place : place + _PIECE_BYTES])
            except OSError as error:
                raise PeerLost(f"not received: {error}") from error
            if not count:
                raise PeerLost(f"it ended after {place} of {len(into)} bytes")
            digest.update(into[place : place + count])
            place += count
        if self.hear().get("sha256") != digest.hexdigest():
            raise PeerLost("its bytes changed on their way")
        return digest.hexdigest()

    def close(self) -> None:
        """End it."""
        self.line.close()

    @staticmethod
    def _opened(channel: Channel, header: bytes, body: bytes) -> dict[str, Any]:
        return channel.open(header, body).body


def call(address: tuple[str, int], ring: Ring, request: dict[str, Any]) -> tuple[PeerStream, dict[str, Any]]:
    """Asks the keeper there, under the newest of our keys that it takes. The stream, and its answer. Raises PeerLost,
    also where the answer is a refusal."""
    refused: Exception | None = None
    for keys in _held(ring):
        stream = _dial(address, keys)
        try:
            stream.say(request)
            answer = stream.hear()
        except PeerLost as error:
            stream.close()
            refused = error
            continue
        if "refused" in answer:
            stream.close()
            raise PeerLost(str(answer["refused"]))
        return stream, answer
    raise PeerLost(f"{address[0]}:{address[1]} answers under none of our keys: {refused}")


def answer(line: socket.socket, ring: Ring) -> tuple[PeerStream, dict[str, Any]]:
    """The server's end of a new connection: its stream and first request. Raises PeerLost."""
    ours = secrets.token_bytes(NONCE_BYTES)
    try:
        line.settimeout(CONNECT_SECONDS)
        line.sendall(greeting(ours))
        theirs = nonce_of(_exactly(line, HELLO_BYTES))
        channels = [Channel(keys.run, ours, theirs, Side.SERVER) for keys in _held(ring)]
        header, body = _frame(line, channels[0])
        line.settimeout(STALL_SECONDS)
        return _first(line, channels, header, body)
    except (OSError, WireError) as error:
        raise PeerLost(f"no request: {error}") from error


def _first(line: socket.socket, channels: Iterable[Channel], header: bytes, body: bytes) -> tuple[PeerStream, Any]:
    for channel in channels:
        try:
            return PeerStream(line, channel), PeerStream._opened(channel, header, body)
        except WireError:
            continue
    raise WireError("it holds none of this run's keys")


def _dial(address: tuple[str, int], keys: Keys) -> PeerStream:
    ours = secrets.token_bytes(NONCE_BYTES)
    line = None
    try:
        line = socket.create_connection(address, CONNECT_SECONDS)
        line.sendall(greeting(ours))
        theirs = nonce_of(_exactly(line, HELLO_BYTES))
        line.settimeout(STALL_SECONDS)
        return PeerStream(line, Channel(keys.run, theirs, ours, Side.CLIENT))
    except (OSError, WireError) as error:
        if line is not None:
            line.close()
        raise PeerLost(f"{address[0]}:{address[1]}: {error}") from error


def _held(ring: Ring) -> tuple[Keys, ...]:
    try:
        return ring()
    except OSError as error:
        raise PeerLost(f"no key: {error}") from error


def _frame(line: socket.socket, channel: Channel) -> tuple[bytes, bytes]:
    header = _exactly(line, HEADER_BYTES)
    return header, _exactly(line, channel.body_length(header))


def _exactly(line: socket.socket, length: int) -> bytes:
    data, end = bytearray(), time.monotonic() + STALL_SECONDS
    while len(data) < length:
        piece = line.recv(length - len(data))
        if not piece or time.monotonic() > end:
            raise PeerLost("it ended, or spoke too slowly")
        data += piece
    return bytes(data)
