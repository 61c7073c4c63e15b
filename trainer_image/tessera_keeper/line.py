"""A trainer's line to the keeper of its node: a local stream socket with a JSON document a line; memory travels with
it as descriptors. This is the trainer's end.

What must stay true: memory that was leased and not staged is the keeper's again when the line ends; when the keeper is
gone, whoever waits for a part hears so.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import socket
import threading
from contextlib import suppress
from typing import Any

from tessera_api.log import StoredObject
from tessera_keeper.keeping import Staged, Told
from tessera_keeper.shelf import Buffer
from tessera_store import StoreUnavailable

VARIABLE = "TESSERA_KEEPER"
ANSWER_SECONDS = 30.0
LINE_BYTES = 64 << 20
MOST_WAITING = 16
"""Parts of which a trainer still wants to hear: far more than can be on their way."""


class KeeperGone(Exception):
    """The keeper of this node has ended, or does not answer."""


class DocumentLine:
    """One end of a line: documents, some with a descriptor. Sends from any thread, receives from one."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._data = b""
        self._files: list[int] = []

    def say(self, document: dict[str, Any], file: int | None = None) -> None:
        """Raises OSError."""
        data = json.dumps(document, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if file is not None:
                sent = socket.send_fds(self._channel, [data], [file])
                data = data[sent:]
            self._channel.sendall(data)

    def hear(self) -> dict[str, Any] | None:
        """The next document; None at the end. Raises OSError, ValueError."""
        while b"\n" not in self._data:
            data, files, _, _ = socket.recv_fds(self._channel, 1 << 16, 8)
            self._files += files
            if not data:
                return None
            self._data += data
            if len(self._data) > LINE_BYTES:
                raise ValueError("a line without an end")
        line, _, self._data = self._data.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document

    def file(self) -> int:
        """The descriptor that came with the last document that was said to bring one."""
        return self._files.pop(0)

    def end(self) -> None:
        """No more in either direction: both ends hear so."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, and let go of descriptors that nobody took."""
        while self._files:
            os.close(self._files.pop())
        self._channel.close()


class KeeperLine:
    """See the module: `keeping.Keeper` in another process. Raises KeeperGone where there is none."""

    def __init__(self, path: str) -> None:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.settimeout(ANSWER_SECONDS)
            channel.connect(path)
            channel.settimeout(None)
        except OSError as error:
            channel.close()
            raise KeeperGone(f"this node has no keeper ({error}); why it ended stands in the agent's log") from error
        self._line = DocumentLine(channel)
        self._answers: queue.Queue[tuple[dict[str, Any], int | None]] = queue.Queue()
        self._asking = threading.Lock()
        self._buffers: dict[int, Buffer] = {}
        self._waiting: dict[str, Told] = {}
        self._gone = False
        threading.Thread(target=self._read, daemon=True, name="keeper-line").start()

    def lease(self, size: int, keep: int) -> Buffer:
        """See `Shelf.lease`. Raises KeeperGone."""
        answer, file = self._ask({"do": "lease", "size": size, "keep": keep})
        number = answer["lease"]
        if file is not None:
            self._buffers[number] = Buffer(number, size, file, mmap.mmap(file, size))
        return self._buffers[number]

    def stage(self, order: Staged, buffer: Buffer, told: Told) -> None:
        """See `keeping.Keeper`. Raises KeeperGone."""
        self._waiting[order.part.name] = told
        while len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._say({"do": "stage", "lease": buffer.number, "order": order.model_dump(mode="json")})

    def part(self, name: str) -> mmap.mmap:
        """A whole part that this node holds. Raises KeyError where it does not, KeeperGone."""
        answer, file = self._ask({"do": "part", "name": name})
        if file is None:
            raise KeyError(name)
        try:
            return mmap.mmap(file, answer["size"], access=mmap.ACCESS_READ)
        finally:
            os.close(file)

    def close(self) -> None:
        """End the line."""
        self._line.end()

    def _say(self, document: dict[str, Any]) -> None:
        try:
            self._line.say(document)
        except OSError as error:
            raise KeeperGone(f"the keeper of this node is gone: {error}") from error

    def _ask(self, document: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        with self._asking:
            self._say(document)
            try:
                answer = self._answers.get(timeout=ANSWER_SECONDS)
            except queue.Empty:
                raise KeeperGone(f"the keeper of this node did not answer in {ANSWER_SECONDS:.0f} s") from None
        if self._gone:
            self._answers.put(answer)
            raise KeeperGone("the keeper of this node is gone")
        return answer

    def _read(self) -> None:
        try:
            while (document := self._line.hear()) is not None:
                if "name" in document:
                    self._tell(document)
                else:
                    self._answers.put((document, self._line.file() if document.get("file") else None))
        except (OSError, ValueError):
            pass
        self._gone = True
        self._answers.put(({}, None))
        for told in tuple(self._waiting.values()):
            told.failed(KeeperGone("the keeper of this node is gone"))
            told.settled("")

    def _tell(self, document: dict[str, Any]) -> None:
        told = self._waiting.get(document["name"])
        if told is None:
            return
        match document["became"]:
            case "settled":
                told.settled(document["alone"])
            case "stored":
                told.stored(StoredObject.model_validate(document["object"]))
            case "failed":
                words = document["words"]
                told.failed(StoreUnavailable(words) if document["by_storage"] else RuntimeError(words))
            case other:
                raise ValueError(f"the keeper said {other!r}")
