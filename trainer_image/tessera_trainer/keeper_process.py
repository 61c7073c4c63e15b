"""The agent's hold on its node's keeper: start it, tell it of generations, ask what it holds.

Every call is bounded, and none fails: a keeper that is gone or silent holds nothing, and is started anew before the
next generation.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tessera_api.drill import Drill
from tessera_api.kept_part import MAX_KEPT, KeptPart
from tessera_api.messages import Part
from tessera_api.seat import Seat
from tessera_keeper.line import DocumentLine

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 0.5
"""Formation waits for nobody: what is not said by then is not offered."""
START_SECONDS = 20.0
COMPILED_CODE_SECONDS = 10.0
"""To compile takes longer."""
SOCKET_NAME = "keeper"


class KeeperProcess:
    """One keeper. `stored` hears of each part that it has stored, from another thread."""

    def __init__(self, folder: Path, run_directory: Path, compiled_code: Path | None = None) -> None:
        self._folder, self._run_directory = folder, run_directory
        self._process: subprocess.Popen[bytes] | None = None
        self._line: DocumentLine | None = None
        self._change = threading.Condition()
        self._compiled_code, self._fingerprint, self._looked = compiled_code, "", False
        self._port: int | None = None
        self._asked = 0
        self._answer: tuple[int, tuple[KeptPart, ...]] = (0, ())
        self.stored: Callable[[Part], None] = lambda part: None

    @property
    def socket_path(self) -> Path:
        """Where trainers reach it."""
        return self._folder / SOCKET_NAME

    @property
    def pid(self) -> int:
        """Of the keeper started last; 0 before the first."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Starts it, and does not wait. It ends with this process, and speaks where this process does."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", "tessera_keeper", "--run-directory", str(self._run_directory)]
        self._folder.mkdir(parents=True, exist_ok=True)
        command += ["--socket", str(self.socket_path)]
        if self._compiled_code is not None:
            command += ["--compiled-code", str(self._compiled_code)]
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno())
        self._port, self._line = None, DocumentLine(mine)
        threading.Thread(target=self._read, args=(self._line,), daemon=True, name="keeper").start()

    def restart_if_dead(self) -> None:
        """Starts it anew if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            logger.warning("the keeper ended with %s: what it held is gone", self._process.returncode)
            self.start()
            self._carry()

    def port(self) -> int | None:
        """Where other nodes reach it, waited for; None where it does not start."""
        with self._change:
            self._change.wait_for(lambda: self._port is not None or not self._alive(), START_SECONDS)
            return self._port

    def fetch_compiled_code(self, fingerprint: str) -> None:
        """What the run's nodes have compiled, for a machine of this kind; waited for, though not for long."""
        if self._compiled_code is None or self._fingerprint or not fingerprint:
            return
        self._fingerprint = fingerprint
        self._carry()
        with self._change:
            if not self._change.wait_for(lambda: self._looked or not self._alive(), COMPILED_CODE_SECONDS):
                logger.warning("compiled code has not come within %.0f s: it may come later", COMPILED_CODE_SECONDS)

    def _carry(self) -> None:
        if self._fingerprint:
            self._say({"do": "carry", "fingerprint": self._fingerprint})

    def kept(self) -> tuple[KeptPart, ...]:
        """What it holds, or nothing where it does not say so in time."""
        self._asked += 1
        number = self._asked
        if not self._say({"do": "kept", "number": number}):
            return ()
        with self._change:
            heard = self._change.wait_for(lambda: self._answer[0] == number, ANSWER_SECONDS)
            return self._answer[1][:MAX_KEPT] if heard else ()

    def begin(self, seat: Seat) -> None:
        """A generation begins: what it does not begin from is no longer wanted, and copies go to the seat's
        neighbour."""
        address = seat.neighbour
        begun = {"folder": seat.resume.folder if seat.resume else "", "generation": seat.generation}
        begun["leads"] = seat.place == 0
        self._say({"do": "begin", **begun, "neighbour": [address.host, address.port] if address else None})

    def drill(self, drill: Drill) -> None:
        """Hurt what is stored."""
        self._say({"do": "drill", "fault": drill.fault.value, "seconds": drill.seconds})

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _say(self, document: dict[str, object]) -> bool:
        try:
            assert self._line is not None
            self._line.say(document)
        except OSError as error:
            logger.warning("the keeper is gone: %s", error)
            return False
        return True

    def _read(self, line: DocumentLine) -> None:
        try:
            while (document := line.hear()) is not None:
                if "part" in document:
                    self.stored(Part.model_validate(document["part"]))
                    continue
                with self._change:
                    if "port" in document:
                        self._port = int(document["port"])
                    elif "looked" in document:
                        self._looked = True
                    else:
                        kept = tuple(KeptPart.model_validate(part) for part in document["kept"])
                        self._answer = (int(document["number"]), kept)
                    self._change.notify_all()
        except (OSError, ValueError) as error:
            logger.warning("the keeper's line broke: %s", error)
        line.close()
        with self._change:
            self._change.notify_all()
