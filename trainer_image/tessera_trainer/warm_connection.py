"""One client of the warm process: reads without ever blocking, and within bounds."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

from tessera_trainer.warm_client import HEADER_BYTES, REQUEST_LIMIT

LINES_LIMIT = 4096
"""Bytes of unread lines after the request."""
READ_BYTES = 1 << 16
DESCRIPTORS = 3


class Connection:
    """Owns the socket and the descriptors that came through it, until `take` hands these over."""

    def __init__(self, channel: socket.socket, deadline: float) -> None:
        channel.setblocking(False)
        self.channel = channel
        self.deadline: float | None = deadline
        """When the whole request must be here; None once it is."""
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def is_ours(self) -> bool:
        """Whether the peer runs under our user (who else could pass the folder's mode is not to be obeyed)."""
        credentials = self.channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1]) == os.geteuid()

    def is_gone(self) -> bool:
        """Whether the peer has closed and left nothing unread."""
        try:
            return not self.channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def read(self) -> bool:
        """Takes in what is there. False when the peer closed, failed, or sent more than it may."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.channel, READ_BYTES, DESCRIPTORS)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._descriptors += descriptors
        self._buffer += data
        limit = LINES_LIMIT if self.deadline is None else HEADER_BYTES + REQUEST_LIMIT + LINES_LIMIT
        return bool(data) and len(self._buffer) <= limit and len(self._descriptors) <= DESCRIPTORS

    def take(self) -> tuple[bytes, tuple[int, ...]] | None:
        """The request and its descriptors, once, when all of it is here. ValueError if it is too large."""
        if self.deadline is None or len(self._buffer) < HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[:HEADER_BYTES], "little")
        if length > REQUEST_LIMIT:
            raise ValueError(f"a request of {length} bytes is too large")
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        payload, descriptors = bytes(self._buffer[HEADER_BYTES:end]), tuple(self._descriptors)
        del self._buffer[:end]
        self._descriptors.clear()
        self.deadline = None
        return payload, descriptors

    def lines(self) -> list[str]:
        """The whole lines that came after the request."""
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer[:] = rest
        return [line.decode("ascii", "replace") for line in lines]

    def say(self, line: str) -> None:
        """Sends a line. A peer that is gone or does not read loses it, and shows as closed at the next read."""
        try:
            sent = self.channel.send(line.encode() + b"\n")
        except OSError:
            sent = -1
        if sent != len(line.encode()) + 1:
            with suppress(OSError):  # closed by the peer
                self.channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self.channel.close()
