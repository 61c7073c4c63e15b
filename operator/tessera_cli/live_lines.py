"""Live lines: following `metrics.jsonl` and `events.jsonl` while the coordinator appends to them.

A line that is not whole yet, or that this version cannot read, is passed over; lines are never read twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from tessera_api.record import Record

Line = TypeVar("Line", bound=Record)

MOST_BYTES = 4 << 20
"""That one look reads: a follower that starts late comes up in several."""


class LiveLines(Generic[Line]):
    """The lines of one file from where the last look ended."""

    def __init__(self, path: Path, kind: type[Line], from_end: bool = False) -> None:
        self._path, self._kind = path, kind
        self._at = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> list[Line]:
        """What was appended since the last call."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                data = file.read(MOST_BYTES)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return list(parse_lines(whole, self._kind))


def parse_lines(data: bytes, kind: type[Line]) -> Iterator[Line]:
    """The records of whole lines; torn ones of a killed writer are passed over."""
    for line in data.splitlines():
        try:
            yield kind.model_validate_json(line)
        except ValidationError:
            continue
