"""How messages travel: authenticated frames on one stream. Pure: bytes in, bytes out; the two ends own the sockets.

A stream begins with `GREETING` and 16 random bytes from each side. The session's key is an HMAC-SHA256 of both under
the run's key, so a recorded stream can't be played again. Then frames: length (4 bytes, big-endian), HMAC-SHA256 over
direction, frame number and body, body (JSON). A wrong code, a frame out of order or an oversized one ends the stream.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from dataclasses import dataclass
from enum import Enum
from typing import cast

GREETING = b"TESSERA/1\n"
NONCE_BYTES = 16
HELLO_BYTES = len(GREETING) + NONCE_BYTES
CODE_BYTES = 32
HEADER_BYTES = 4 + CODE_BYTES


class WireError(Exception):
    """The other end is not who it must be, or is broken. The stream is to be closed."""


class Side(Enum):
    """Which end sent a frame."""

    CLIENT = b"c"
    SERVER = b"s"


FRAME_LIMITS = {Side.CLIENT: 1 << 20, Side.SERVER: 16 << 20}
"""Bytes of a frame's body, by who sends it: a coordinator hands out the resume point of up to `log.MAX_OBJECTS`."""


@dataclass(frozen=True)
class Envelope:
    """What goes around every message."""

    term: int
    generation: int
    sequence: int
    """0: need not be acknowledged."""
    body: dict[str, object]


def greeting(nonce: bytes) -> bytes:
    """The first bytes that each side sends."""
    return GREETING + nonce


def read_greeting(data: bytes) -> bytes:
    """The other side's nonce. Raises WireError when it speaks something else."""
    if len(data) != HELLO_BYTES or not data.startswith(GREETING):
        raise WireError(f"not a Tessera stream: it began with {data[:16]!r}")
    return data[len(GREETING) :]


class Channel:
    """Seals and opens the frames of one stream, in order, for one of its ends."""

    def __init__(self, key: bytes, server_nonce: bytes, client_nonce: bytes, side: Side) -> None:
        self._key = hmac.digest(key, b"session" + server_nonce + client_nonce, hashlib.sha256)
        self._mine, self._theirs = side, (Side.SERVER if side is Side.CLIENT else Side.CLIENT)
        self._sent = self._received = 0

    def proof(self, control: bytes) -> str:
        """That this end holds `control` too: good on this stream alone, since both ends' nonces are in it."""
        return hmac.new(control, b"control" + self._key, hashlib.sha256).hexdigest()

    def _code(self, side: Side, number: int, body: bytes) -> bytes:
        return hmac.digest(self._key, side.value + struct.pack(">Q", number) + body, hashlib.sha256)

    def seal(self, envelope: Envelope) -> bytes:
        """The next frame. Raises WireError when the message is too large."""
        body = json.dumps(envelope.body, separators=(",", ":")).encode()
        return self.seal_text(envelope.term, envelope.generation, envelope.sequence, body)

    def seal_text(self, term: int, generation: int, sequence: int, text: bytes) -> bytes:
        """The same of a message that is JSON already: one that goes to thousands is put into words once."""
        body = b'{"t":%d,"g":%d,"s":%d,"b":%b}' % (term, generation, sequence, text)
        if len(body) > FRAME_LIMITS[self._mine]:
            raise WireError(f"a message of {len(body)} bytes; at most {FRAME_LIMITS[self._mine]} are allowed")
        frame = struct.pack(">I", len(body)) + self._code(self._mine, self._sent, body) + body
        self._sent += 1
        return frame

    def body_length(self, header: bytes) -> int:
        """How many bytes follow a header of `HEADER_BYTES`."""
        (length,) = cast(tuple[int], struct.unpack(">I", header[:4]))
        if length > FRAME_LIMITS[self._theirs]:
            raise WireError(f"a frame of {length} bytes; at most {FRAME_LIMITS[self._theirs]} are allowed")
        return length

    def open(self, header: bytes, body: bytes) -> Envelope:
        """The message in a received frame. Raises WireError for a wrong code or form."""
        if not hmac.compare_digest(header[4:HEADER_BYTES], self._code(self._theirs, self._received, body)):
            raise WireError("a frame's authentication code is wrong: another run's key, or a frame out of order")
        self._received += 1
        try:
            document = json.loads(body)
            return Envelope(int(document["t"]), int(document["g"]), int(document["s"]), dict(document["b"]))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise WireError(f"a frame that is not an envelope: {error}") from error
