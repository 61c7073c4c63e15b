"""What keepers do for each other: take a copy of a part, and read one out.

A copy counts once its digest is the one that was announced.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from tessera_api.keys import Ring
from tessera_api.log import StoredObject
from tessera_keeper.listening import MAX_CONNECTIONS, Listener
from tessera_keeper.peer_stream import PeerLost, PeerStream, answer, call
from tessera_keeper.shelf import Kept, Shelf

logger = logging.getLogger(__name__)

Address = tuple[str, int]


def copy_to(address: Address, ring: Ring, part: Kept, keep: int) -> None:
    """Has the keeper at `address` hold a copy of a sealed part; its steps before `keep` are no longer wanted. Raises
    PeerLost."""
    assert part.sealed is not None
    request = {
        "do": "hold",
        "object": part.sealed.model_dump(mode="json"),
        "step": part.step,
        "position": part.position,
        "keep": keep,
    }
    stream, _ = call(address, ring, request)
    try:
        stream.send_bytes(memoryview(part.buffer.memory)[: part.sealed.size])
        stream.hear()
    finally:
        stream.close()


def read_from(address: Address, ring: Ring, name: str, start: int, length: int) -> bytearray:
    """Bytes [start, start + length) of a part that the keeper at `address` holds. Raises PeerLost."""
    stream, _ = call(address, ring, {"do": "read", "name": name, "start": start, "length": length})
    try:
        data = bytearray(length)
        stream.take_bytes(memoryview(data))
        return data
    finally:
        stream.close()


class PeerServer:
    """Serves the shelf to the run's other nodes."""

    def __init__(self, shelf: Shelf, ring: Ring, host: str = "0.0.0.0") -> None:
        self._shelf, self._ring = shelf, ring
        listener = socket.create_server((host, 0), backlog=MAX_CONNECTIONS)
        self.port: int = listener.getsockname()[1]
        self._listener = Listener(listener, self._serve)

    def close(self) -> None:
        """No more connections."""
        self._listener.close()

    def _serve(self, line: socket.socket) -> None:
        try:
            with line:
                stream, request = answer(line, self._ring)
                self._do(stream, request)
        except PeerLost as error:
            logger.info("a peer's request came to nothing: %s", error)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("a peer asked for what makes no sense: %r", error)

    def _do(self, stream: PeerStream, request: dict[str, Any]) -> None:
        work: dict[str, Callable[[PeerStream, dict[str, Any]], None]] = {"read": self._read, "hold": self._hold}
        work[request["do"]](stream, request)

    def _read(self, stream: PeerStream, request: dict[str, Any]) -> None:
        name, start, length = str(request["name"]), int(request["start"]), int(request["length"])
        try:
            with self._shelf.reading(name) as part:
                assert part.sealed is not None
                if not 0 <= start <= start + length <= part.sealed.size:
                    return stream.say({"refused": f"{name} has {part.sealed.size} bytes"})
                stream.say({"go": True})
                return stream.send_bytes(memoryview(part.buffer.memory)[start : start + length])
        except KeyError:
            return stream.say({"refused": f"{name} is not held here"})

    def _hold(self, stream: PeerStream, request: dict[str, Any]) -> None:
        stored = StoredObject.model_validate(request["object"])
        keep = int(request["keep"])
        if not self._shelf.belongs(stored.name):
            return stream.say({"refused": f"{stored.name} is of another generation than this node's"})
        if not self._shelf.room(stored.size, keep):
            return stream.say({"refused": f"no memory for {stored.size} bytes"})
        buffer = self._shelf.lease(stored.size, keep)
        part = None
        try:
            stream.say({"go": True})
            digest = stream.take_bytes(memoryview(buffer.memory)[: stored.size])
            if digest != stored.sha256:
                raise PeerLost(f"the copy of {stored.name} has sha256 {digest}, expected {stored.sha256}")
            part = self._shelf.put(stored.name, int(request["step"]), int(request["position"]), buffer)
            self._shelf.sealed(part, stored)
        finally:
            self._shelf.give_back(buffer) if part is None else self._shelf.done(part)
        return stream.say({"held": True})
