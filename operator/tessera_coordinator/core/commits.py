"""From parts to a commit: a checkpoint exists once every rank of the open generation has reported its part."""

from __future__ import annotations

from dataclasses import dataclass

from tessera_api.checkpoint import parse_prefix
from tessera_api.log import Open, StoredObject
from tessera_api.messages import Part


@dataclass(frozen=True)
class ReadyCommit:
    """All parts are there: to be written to the log."""

    generation: int
    step: int
    position: int
    objects: tuple[StoredObject, ...]
    seconds: float
    """The slowest rank's time from step boundary to the last byte."""
    stall_seconds: float


class PartRefused(Exception):
    """A part that cannot belong to the open generation; the message says why."""


class Parts:
    """Collects the parts of one generation. Parts of another generation are garbage by definition."""

    def __init__(self, generation: Open, committed: int = -1) -> None:
        self._open, self._world = generation, generation.world_size()
        self._steps: dict[int, dict[int, Part]] = {}
        self._committed = committed

    def add(self, part: Part) -> ReadyCommit | None:
        """One rank's part. Returns the commit when it was the last one missing; a repeated part changes nothing.

        Raises PartRefused when the ranks disagree, or when the objects do not lie in this generation's own folder.
        """
        world = self._world
        if not 0 <= part.rank < world:
            raise PartRefused(f"rank {part.rank} in a world of {world}")
        if part.step <= self._committed:
            return None
        for stored in part.objects:
            self._check_folder(stored.name, part.step)
        parts = self._steps.setdefault(part.step, {})
        first = next(iter(parts.values()), part)  # with which all others agree
        if first.position != part.position:
            raise PartRefused(f"rank {part.rank} is at position {part.position}, rank {first.rank} at {first.position}")
        parts[part.rank] = part
        if len(parts) < world:
            return None
        return self._ready(part.step, [parts[rank] for rank in range(world)])

    def _check_folder(self, name: str, step: int) -> None:
        prefix = parse_prefix(name)
        own = self._open
        if prefix is None or (prefix.step, prefix.term, prefix.generation, prefix.nonce) != (
            step,
            own.term,
            own.generation,
            own.nonce,
        ):
            raise PartRefused(f"{name} is not in the folder of step {step} of generation {own.term}.{own.generation}")

    def _ready(self, step: int, parts: list[Part]) -> ReadyCommit:
        objects = tuple(stored for part in parts for stored in part.objects)
        return ReadyCommit(
            self._open.generation,
            step,
            parts[0].position,
            objects,
            max(part.seconds for part in parts),
            max(part.stall_seconds for part in parts),
        )

    def committed(self, step: int) -> None:
        """The commit stands in the log: older parts are of no more use."""
        self._committed = max(self._committed, step)
        self._steps = {s: parts for s, parts in self._steps.items() if s > step}

    def done(self, step: int) -> bool:
        """Whether this step, or a later one, is committed."""
        return step <= self._committed
