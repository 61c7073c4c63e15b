"""Which snapshot a generation can begin from, by what its members say that they hold in memory. Pure.

What must stay true: a snapshot counts only when every part of its world is held by members, with one digest each; it
is one of the generation that the log has open, or the very one that this began from; and it is newer than the last
commit, or is that commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tessera_api.checkpoint import CheckpointPrefix, parse_prefix
from tessera_api.kept_part import KeptPart
from tessera_api.log import ResumePoint
from tessera_coordinator.core.history import History

_PART = re.compile(r"rank-(\d{5})-of-(\d{5})\.safetensors$")


@dataclass(frozen=True)
class Held:
    """One part in the memory of one node."""

    node: str
    part: KeptPart


def resume_point(history: History, held: Iterable[Held]) -> ResumePoint | None:
    """Where the next generation begins: at the newest snapshot that is whole in memory, if that is no older than the
    last commit, else at that commit; None: at the beginning."""
    newest = history.newest
    allowed = (snapshot for snapshot in _whole(held) if history.allows(snapshot))
    best = max(allowed, key=lambda snapshot: snapshot.step, default=None)
    if best is not None:
        return best
    return ResumePoint(step=newest.step, position=newest.position, objects=newest.objects) if newest else None


def _whole(held: Iterable[Held]) -> Iterator[ResumePoint]:
    """The snapshots of which every part is held."""
    folders: dict[CheckpointPrefix, dict[str, list[Held]]] = {}
    for one in held:
        folder = parse_prefix(one.part.object.name)
        if folder is not None:
            folders.setdefault(folder, {}).setdefault(one.part.object.name, []).append(one)
    for folder, parts in folders.items():
        names = _in_order(parts)
        found = [parts[name] for name in names]
        one_of_each = all(len({held.part.object for held in holders}) == 1 for holders in found)
        positions = {held.part.position for holders in found for held in holders}
        if names and one_of_each and len(positions) == 1:
            objects = tuple(holders[0].part.object for holders in found)
            # Whoever offered it first made it, if that node is still there.
            holders = tuple(holders[0].node for holders in found)
            yield ResumePoint(step=folder.step, position=positions.pop(), objects=objects, holders=holders)


def _in_order(parts: Mapping[str, object]) -> list[str]:
    """The names by rank; none unless each rank of one world is there."""
    matches = [(match, name) for name in parts if (match := _PART.search(name))]
    ranks = {int(match[1]): name for match, name in matches}
    worlds = {int(match[2]) for match, _ in matches}
    if len(worlds) != 1 or sorted(ranks) != list(range(min(worlds))):
        return []
    return [ranks[rank] for rank in sorted(ranks)]
