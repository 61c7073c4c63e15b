"""A socket that is listened at, with a thread for each connection, and no more of them than it has places."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

MAX_CONNECTIONS = 64


class Listener:
    """`serve` is called with each connection in a thread of its own, and closes it; one too many is closed here."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        self._listener, self._serve = listener, serve
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        threading.Thread(target=self._accept, daemon=True, name="listener").start()

    def close(self) -> None:
        """No more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._run, args=(connection,), daemon=True, name="connection").start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        finally:
            self._places.release()
