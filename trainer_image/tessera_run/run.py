"""One trainer's line to the agent of its node: a local stream socket with a JSON document a line.

Owns the line and two threads on it. Must stay true: reporting never blocks and never ends training; a part of a
checkpoint is not lost while the agent lives; when the agent is gone this process ends, since nobody could tell it
that its generation is over.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, NoReturn

from tessera_run.clock_drill import step_clock
from tessera_run.failure import is_collective_error, is_storage_error, place_of
from tessera_run.resume import Part, Resume, resume_of
from tessera_run.waiting import waits_in

STACK_SIGNAL = signal.SIGRTMIN + 7
"""Answered with the stacks of all threads on standard error, by a program that has connected; no program of one's own
is likely to use it."""
SOCKET_VARIABLE = "TESSERA_SOCKET"
AGENT_GONE = 70
HELLO_SECONDS = 20.0
STORAGE_PAUSE_SECONDS = 10.0
"""Before a program ends because of its storage: the run tries for ever, and not in a hurry."""
MAX_QUEUED = 100_000
PROGRESS_SECONDS = 5.0
MAX_LINE_BYTES = 64 << 20
MORE_THAN_THERE_IS = 1 << 52
"""Bytes: beyond what a process can address."""
MAX_NUMBERS = 32
MAX_NAME = 40


@dataclass(frozen=True)
class Span:
    """Positions [first, last) of the data order."""

    first: int
    last: int


@dataclass(frozen=True)
class Rewound:
    """Training went back from `from_step` to the commit of `to_step`; `slower` as it was asked for."""

    to_step: int
    from_step: int
    slower: bool


@dataclass(frozen=True)
class Stop:
    """Park at a step boundary, commit before the deadline (monotonic seconds)."""

    reason: str
    deadline: float


class DrillFault(Exception):
    """A drill wanted an exception."""


class NotCommitted(Exception):
    """A checkpoint was not committed within its limit."""


class Run:
    """See the module. Made by `connect`; `alone` is True without Tessera."""

    def __init__(self, line: socket.socket | None, welcome: dict[str, Any]) -> None:
        self._line = line
        self.rank, self.world_size = int(welcome["rank"]), int(welcome["world_size"])
        self.local_rank = int(welcome["local_rank"])
        self.term, self.generation = int(welcome["term"]), int(welcome["generation"])
        self.nonce = str(welcome["nonce"])
        self.skips = tuple(Span(**span) for span in welcome["skips"])
        self.rewinds = tuple(Rewound(**rewound) for rewound in welcome.get("rewinds", ()))
        """How the run went back before, oldest first."""
        self._resume, self._pieces = resume_of(welcome["resume"], self._ask)
        self._stop: Stop | None = None
        self._drilled = ""
        self._committed = threading.Condition()
        self._committed_step = self._resume.step if self._resume and not self._resume.holders else -1
        self._outgoing: queue.Queue[dict[str, object] | bytes | None] = queue.Queue(MAX_QUEUED)
        self._units, self._progress_due = 0, 0.0
        self.declared = "start"
        """The phase that was declared last."""
        self._closing = False
        """Everything is said: the agent may close the line."""
        self.dropped = 0
        """Reports that found the queue full."""
        self._threads: list[threading.Thread] = []
        if line is not None:
            self._hear(welcome)
            for work in (self._write, self._read):
                thread = threading.Thread(target=work, daemon=True, name=f"tessera-run{work.__name__}")
                thread.start()
                self._threads.append(thread)

    @property
    def alone(self) -> bool:
        """Whether there is no Tessera around this program."""
        return self._line is None

    # ---- what a training program says ------------------------------------------------------------------------------

    def step(self, step: int, tokens: int, loss: float, **numbers: float) -> None:
        """Optimizer step `step` is complete; `tokens` were trained on since the run began. Rank 0's is written to
        metrics.jsonl, with the first `MAX_NUMBERS` of `numbers`."""
        shown = _numbers(numbers)
        said = {"step": step, "tokens": tokens, "loss": float(loss), "time": time.time(), "numbers": shown}
        self._progress_due = time.monotonic() + PROGRESS_SECONDS
        self._say({"do": "step", **said})
        if self.drilled("out-of-memory"):
            bytearray(MORE_THAN_THERE_IS)
        if self.drilled("worker-exception"):
            raise DrillFault(f"ordered by a drill, after step {step}")

    def drilled(self, fault: str) -> bool:
        """Whether a drill has ordered this fault of this rank; said once."""
        if self._drilled != fault:
            return False
        self._drilled = ""
        return True

    def progress(self, units: int) -> None:
        """`units` more micro-batches were computed by this rank: a sign of life inside a step that takes longer
        than `PROGRESS_SECONDS`, and told no more often."""
        self._units += units
        if time.monotonic() >= self._progress_due:
            self._progress_due = time.monotonic() + PROGRESS_SECONDS
            self._say({"do": "progress", "units": self._units})

    def phase(self, name: str, step: int = -1) -> None:
        """What the generation does from now on: start, train, checkpoint, evaluation, export."""
        self.declared = name
        self._say({"do": "phase", "name": name, "step": step})

    def note(self, name: str, message: str, **numbers: float) -> None:
        """An event for people, written to events.jsonl."""
        self._say({"do": "note", "name": name, "message": message, "numbers": _numbers(numbers)})

    def resume(self) -> Resume | None:
        """The checkpoint to start from. It is handed out: no rank looks for one."""
        return self._resume

    def commit(
        self, step: int, position: int, parts: Sequence[Part], seconds: float = 0.0, stall_seconds: float = 0.0
    ) -> None:
        """This rank's part of the checkpoint of `step` is stored. It exists once every rank has said so; see
        `wait_committed`."""
        objects = [asdict(part) for part in parts]
        self._say(
            {
                "do": "part",
                "step": step,
                "position": position,
                "objects": objects,
                "seconds": seconds,
                "stall_seconds": stall_seconds,
            },
            must=True,
        )

    def wait_committed(self, step: int, seconds: float) -> None:
        """Until the checkpoint of `step` stands in the log. Raises NotCommitted after `seconds`."""
        if self.alone:
            return
        with self._committed:
            if not self._committed.wait_for(lambda: self._committed_step >= step, seconds):
                raise NotCommitted(f"the checkpoint of step {step} was not committed within {seconds:.0f} s")

    @property
    def committed_step(self) -> int:
        """The newest step known to be committed; -1: none."""
        return self._committed_step

    def rewind(self, span: Span, reason: str, skip: Span | None = None, slower: bool = False) -> None:
        """Go back to the newest commit that is no newer than step `span.first`, or to the beginning; steps up to
        `span.last` are thrown away. Positions `skip` are left out from then on; `slower` is told to the generations
        after (`rewinds`). This generation ends."""
        left_out = asdict(skip) if skip is not None else None
        said = {"to_step": span.first, "from_step": span.last, "reason": reason, "skip": left_out, "slower": slower}
        self._say({"do": "rewind", **said}, must=True)

    def wait_for_the_end(self) -> NoReturn:
        """Of this generation: until the agent ends this process. Alone, the process ends itself."""
        if self.alone:
            raise SystemExit(1)
        _wait_for_the_end()

    def skip(self, span: Span, reason: str) -> None:
        """Leave these positions out from the next generation on."""
        self._say({"do": "skip", "first": span.first, "last": span.last, "reason": reason}, must=True)

    def should_stop(self) -> Stop | None:
        """The order to park, if there is one. Ranks may learn of it at different steps: agree before acting on it."""
        return self._stop

    def park(self, step: int) -> NoReturn:
        """The order was obeyed: stand still, holding nothing that others need, until the agent ends this process.
        Alone, the process ends itself."""
        if self.alone:
            raise SystemExit(0)
        self._say({"do": "phase", "name": "parked", "step": step}, must=True)
        _wait_for_the_end()

    # ---- failing ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Report how it went. A collective error parks: the agent is told by others what happened and ends this
        process."""
        if error is None or isinstance(error, SystemExit):
            return self.close()
        collective = is_collective_error(error)
        storage = not collective and is_storage_error(error)
        what = "collective error" if collective else "storage" if storage else "exception"
        text = f"{type(error).__name__}: {error}"[:1500]
        told = "".join(traceback.format_exception(error))[-4000:]
        self._say({"do": "trouble", "what": what, "place": place_of(error), "message": text, "log": told}, must=True)
        if collective and not self.alone:
            _wait_for_the_end()
        if storage and not self.alone:
            time.sleep(STORAGE_PAUSE_SECONDS)
        return self.close()

    def close(self) -> None:
        """Everything said so far reaches the agent, or its end is noticed; at most 5 s."""
        if self._line is None:
            return
        try:
            self._outgoing.put(None, timeout=5.0)
        except queue.Full:
            return
        self._threads[0].join(timeout=5.0)

    # ---- the line --------------------------------------------------------------------------------------------------

    def _say(self, document: dict[str, object], must: bool = False) -> None:
        """What must arrive is put into words here, where a wrong one is the caller's error; all else by the thread that
        sends it, so that the caller does not wait for it."""
        if self._line is None:
            return
        try:
            self._outgoing.put(_encoded(document) if must else document, block=must, timeout=60.0 if must else None)
        except queue.Full:
            self.dropped += 1

    def _ask(self, number: int) -> None:
        """For objects of the point to begin from."""
        self._say({"do": "pieces", "first": number}, must=True)

    def _write(self) -> None:
        assert self._line is not None
        try:
            while (said := self._outgoing.get()) is not None:
                try:
                    data = said if isinstance(said, bytes) else _encoded(said)
                except (TypeError, ValueError):  # no text of JSON: a name or message that is none
                    self.dropped += 1
                    continue
                self._line.sendall(data)
            self._closing = True
            self._line.shutdown(socket.SHUT_WR)
        except OSError:
            os._exit(AGENT_GONE)

    def _read(self) -> None:
        assert self._line is not None
        try:
            with self._line.makefile("rb") as lines:
                for data in lines:
                    self._hear(json.loads(data))
        except OSError:
            pass
        if not self._closing:
            os._exit(AGENT_GONE)
        self._line.close()

    def _hear(self, document: dict[str, Any]) -> None:
        stop = document.get("stop")
        if stop is not None:
            self._stop = Stop(str(stop["reason"]), time.monotonic() + float(stop["seconds"]))
        if document.get("drill") is not None and document["rank"] == self.rank:
            self._drilled = str(document["drill"])
            if document["drill"] == "clock-step":
                step_clock(float(document["seconds"]))
            if document["drill"] == "lock-hog":
                pow(7, 10**9)  # one operation of C, which never lets go of the lock
        if document.get("waits?") is not None:
            self._say({"do": "waits", "number": document["waits?"], "in": _waits_in()})
        if document.get("pieces") is not None:
            self._pieces.told(int(document["first"]), document["pieces"])
        step = document.get("committed")
        if step is not None:
            with self._committed:
                self._committed_step = max(self._committed_step, int(step))
                self._committed.notify_all()


def connect(environment: dict[str, str] | None = None) -> Run:
    """The run that this process is a trainer of. Raises OSError, TimeoutError when the agent does not answer."""
    variables = os.environ if environment is None else environment
    ranks = {
        "rank": int(variables.get("RANK", "0")),
        "local_rank": int(variables.get("LOCAL_RANK", "0")),
        "world_size": int(variables.get("WORLD_SIZE", "1")),
    }
    path = variables.get(SOCKET_VARIABLE)
    if not path:
        return Run(None, {**ranks, "term": 0, "generation": 0, "nonce": "", "skips": [], "resume": None})
    # Whoever wants to know where this process stands may ask, even of one that no Python code runs in any more.
    faulthandler.register(STACK_SIGNAL, all_threads=True)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    hello = {"do": "hello", **ranks, "generation": int(variables.get("TESSERA_GENERATION", "0")), "pid": os.getpid()}
    try:
        line.settimeout(HELLO_SECONDS)
        line.connect(path)
        line.sendall(json.dumps(hello).encode() + b"\n")
        welcome = json.loads(_first_line(line))
    except BaseException:
        line.close()
        raise
    line.settimeout(None)
    return Run(line, {**ranks, **welcome})


def _waits_in() -> dict[str, Any] | None:
    try:
        return waits_in()
    except Exception:  # noqa: BLE001 - torch's recorder promises no format; without it less is known of a hang
        return None


def _encoded(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _first_line(line: socket.socket) -> bytes:
    """Byte by byte, so that nothing after it is taken from the reader's share; it is one line per process."""
    data = bytearray()
    while not data.endswith(b"\n"):
        piece = line.recv(1 << 16, socket.MSG_PEEK)
        if not piece or len(data) > MAX_LINE_BYTES:
            raise ConnectionError("the agent closed the line: this generation is over")
        end = piece.find(b"\n")
        data += line.recv(end + 1 if end >= 0 else len(piece))
    return bytes(data)


def _numbers(numbers: dict[str, float]) -> dict[str, float]:
    """What a report has room for."""
    return {name[:MAX_NAME]: float(number) for name, number in list(numbers.items())[:MAX_NUMBERS]}


def _wait_for_the_end() -> NoReturn:
    """Until the agent kills this process, or is gone itself (then the reading thread ends it)."""
    while True:
        time.sleep(3600)


@contextmanager
def declared(run: Run, name: str, step: int = -1) -> Iterator[None]:
    """A phase for the length of a block; then the one before goes on."""
    before = run.declared
    run.phase(name, step)
    yield
    run.phase(before, step)
