"""The keeper's end of the trainers' lines: leases memory to them and tells them what became of their parts.

Owns which memory each of them has leased. A line that ends gives back what it had not staged: a copy may be torn.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from tessera_api.log import StoredObject
from tessera_keeper.keeping import Keeping, Staged
from tessera_keeper.line import DocumentLine
from tessera_keeper.listening import MAX_CONNECTIONS, Listener
from tessera_keeper.shelf import Buffer
from tessera_store import StoreError

logger = logging.getLogger(__name__)


class LineServer:
    """Listens at `path`, in a folder that belongs to this user alone."""

    def __init__(self, path: Path, keeping: Keeping) -> None:
        self._keeping = keeping
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(MAX_CONNECTIONS)
        self._listener = Listener(listener, self._serve)

    def close(self) -> None:
        """No more lines."""
        self._listener.close()

    def _serve(self, channel: socket.socket) -> None:
        _Line(DocumentLine(channel), self._keeping).serve()


class _Line:
    def __init__(self, line: DocumentLine, keeping: Keeping) -> None:
        self._line, self._keeping = line, keeping
        self._leased: dict[int, Buffer] = {}
        self._known: set[int] = set()
        """Buffers that the trainer has mapped already."""

    def serve(self) -> None:
        try:
            while (document := self._line.hear()) is not None:
                self._do(document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("a trainer's line broke: %r", error)
        finally:
            for buffer in self._leased.values():
                self._keeping.shelf.give_back(buffer)
            self._line.close()

    def _do(self, document: dict[str, Any]) -> None:
        match document["do"]:
            case "lease":
                self._lease(int(document["size"]), int(document["keep"]))
            case "stage":
                order = Staged.model_validate(document["order"])
                buffer = self._leased.pop(document["lease"])
                self._keeping.stage(order, buffer, _Teller(self._line, order.part.name))
            case "part":
                self._part(str(document["name"]))
            case other:
                raise ValueError(f"a trainer said {other!r}")

    def _lease(self, size: int, keep: int) -> None:
        buffer = self._keeping.lease(size, keep)
        self._leased[buffer.number] = buffer
        new = buffer.number not in self._known
        self._known.add(buffer.number)
        self._line.say({"lease": buffer.number, "file": new}, buffer.file if new else None)

    def _part(self, name: str) -> None:
        try:
            with self._keeping.shelf.reading(name) as part:
                assert part.sealed is not None
                # Opened anew to be read only: the trainer could otherwise write to what is held.
                file = os.open(f"/proc/self/fd/{part.buffer.file}", os.O_RDONLY)
                try:
                    self._line.say({"size": part.sealed.size, "file": True}, file)
                finally:
                    os.close(file)
        except KeyError:
            self._line.say({"size": None})


class _Teller:
    """`keeping.Told` for a trainer that may be gone."""

    def __init__(self, line: DocumentLine, name: str) -> None:
        self._line, self._name = line, name

    def settled(self, alone: str) -> None:
        self._say({"became": "settled", "alone": alone[:1000]})

    def stored(self, stored: StoredObject) -> None:
        self._say({"became": "stored", "object": stored.model_dump(mode="json")})

    def failed(self, error: Exception) -> None:
        words = f"{type(error).__name__}: {error}"[:1500]
        self._say({"became": "failed", "words": words, "by_storage": isinstance(error, StoreError)})

    def _say(self, document: dict[str, Any]) -> None:
        with suppress(OSError):
            self._line.say({"name": self._name, **document})
