"""The run directory's live files. Owns their writing; nobody else writes them (design.md §2.8).

Lines are appended in one write each, so that a reader meets whole lines but for a last one that is being written;
documents are replaced by rename. A restarted coordinator goes on in the same files, and passes over what a crash of
the machine made unreadable: the truth is in log and journal.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

from tessera_api.incident import Incident
from tessera_api.journal import Event, StepLine
from tessera_api.record import Record
from tessera_api.run_directory import RunDirectory

logger = logging.getLogger(__name__)

STATUS_SECONDS = 5.0
"""How old status.json's numbers may be. Where the run stands (phase, nodes, restarts) is written as it changes."""
_LEDGER = ("goodput", "ettr", "nodeSeconds", "cost", "lostWorkCost")
NUMBERS = frozenset({"age", "step", "loss", "tokensPerSecond", "mfu", "eta", *_LEDGER})
"""What changes with every step."""


class LiveFiles:
    """Appends to `events.jsonl` and `metrics.jsonl`, replaces `status.json`, `nodes.json` and `incidents/`."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._nodes: dict[str, object] | None = None
        self._stands: dict[str, object] = {}
        self._status_due = 0.0
        directory.incidents.mkdir(parents=True, exist_ok=True)
        self._events = _open_lines(directory.events)
        self._metrics = _open_lines(directory.metrics)

    def event(self, event: Event) -> None:
        """One line of events.jsonl."""
        _append(self._events, event)

    def step(self, line: StepLine) -> None:
        """One line of metrics.jsonl."""
        _append(self._metrics, line)

    def status(self, document: dict[str, object], now: float) -> None:
        """status.json: at once if more than its numbers has changed, otherwise every STATUS_SECONDS (`now` is a
        monotonic clock's). A rename costs more than all else that the coordinator does in a second."""
        stands = {name: value for name, value in document.items() if name not in NUMBERS}
        if stands != self._stands or now >= self._status_due:
            replace_json(self._directory.status, document)
            self._stands, self._status_due = stands, now + STATUS_SECONDS

    def status_due(self, now: float) -> bool:
        """Whether the numbers of status.json are old enough to be written anew."""
        return now >= self._status_due

    def nodes(self, document: dict[str, object]) -> None:
        """nodes.json, if it has changed."""
        if document != self._nodes:
            replace_json(self._directory.nodes, document)
            self._nodes = document

    def incident(self, number: int, document: dict[str, object]) -> None:
        """incidents/NNNN.json."""
        replace_json(self._directory.incidents / f"{number:04d}.json", document)

    def incidents(self) -> list[Incident]:
        """The incidents of this run so far, in order, without those that cannot be read."""
        found = []
        for path in sorted(self._directory.incidents.glob("[0-9]*.json")):
            try:
                found.append(Incident.model_validate_json(path.read_bytes()))
            except (OSError, ValueError) as error:
                logger.warning("an incident that cannot be read, %s: %s", path.name, error)
        return found

    def close(self) -> None:
        """No more lines."""
        os.close(self._events)
        os.close(self._metrics)


def replace_json(path: Path, document: dict[str, object]) -> None:
    """Write a JSON document so that a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def _open_lines(path: Path) -> int:
    """For appending; a torn last line of a killed predecessor is ended first."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


def _append(descriptor: int, record: Record) -> None:
    """One line, or none: a full disk may take a part of it. Raises OSError."""
    document = record.model_dump(mode="json", exclude_none=True, exclude={"record"})
    line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    size = os.fstat(descriptor).st_size
    if os.write(descriptor, line) < len(line):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
