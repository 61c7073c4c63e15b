"""Who sits where in a generation, and what each node is told of it. Pure; made once a generation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Set
from itertools import accumulate

from tessera_api.checkpoint import parse_prefix
from tessera_api.log import KeeperAddress, Open
from tessera_api.seat import GIVEN, PAGE, Beginning, Holder, Piece, Pieces, Seat


class Seating:
    """Of one `open` entry."""

    def __init__(self, opened: Open) -> None:
        self.opened, self.digest = opened, opened.short_hash()
        self._places = {member.node: place for place, member in enumerate(opened.members)}
        self._first_ranks = list(accumulate((member.processes for member in opened.members), initial=0))
        self._holders = {
            member.node: Holder(node=member.node, host=member.keeper.host, port=member.keeper.port)
            for member in opened.members
            if member.keeper is not None
        }
        resume = opened.resume
        self._count = len(resume.objects) if resume is not None else 0
        prefix = parse_prefix(resume.objects[0].name) if resume is not None and resume.objects else None
        self._folder = str(prefix) if prefix is not None else ""
        self._pages: dict[int, Pieces] = {}
        """Those that were asked for; all nodes ask for the same."""

    @property
    def ranks(self) -> int:
        """Of all nodes."""
        return self._first_ranks[-1]

    def node_of(self, rank: int) -> str:
        """Where a rank is. Raises IndexError beyond the last."""
        return self.opened.members[bisect_right(self._first_ranks, rank) - 1].node

    @property
    def names(self) -> Set[str]:
        """Of the members."""
        return self._places.keys()

    def __contains__(self, node: str) -> bool:
        return node in self._places

    def seat(self, node: str) -> Seat:
        """What a member is told. Raises KeyError for another."""
        opened, place = self.opened, self._places[node]
        return Seat(
            term=opened.term,
            generation=opened.generation,
            digest=self.digest,
            nonce=opened.nonce,
            place=place,
            nodes=len(opened.members),
            ranks=self.ranks,
            store=opened.store,
            neighbour=self._neighbour(place),
            resume=self._beginning(place),
            skips=opened.skips,
            rewinds=opened.rewinds,
        )

    def page(self, first: int) -> Pieces:
        """Objects of the point that it begins from, from number `first` on."""
        if first not in self._pages:
            pieces = self._pieces(first, first + PAGE)
            if first % PAGE:
                return Pieces(generation=self.opened.generation, first=first, pieces=pieces)
            self._pages[first] = Pieces(generation=self.opened.generation, first=first, pieces=pieces)
        return self._pages[first]

    def _neighbour(self, place: int) -> KeeperAddress | None:
        """The keeper that holds a node's copies: that of the member half a round away, which is the least likely to be
        near (members are in order of place) and to go with it. None where there is no other, or one has no keeper."""
        members = self.opened.members
        return members[(place + max(1, len(members) // 2)) % len(members)].keeper if len(members) > 1 else None

    def _beginning(self, place: int) -> Beginning | None:
        resume = self.opened.resume
        if resume is None:
            return None
        first, last = (0, self._count) if self._count <= GIVEN else self._first_ranks[place : place + 2]
        return Beginning(
            step=resume.step,
            position=resume.position,
            pieces=self._count,
            in_memory=resume.holders is not None,
            folder=self._folder,
            first=first,
            given=self._pieces(first, last),
        )

    def _pieces(self, first: int, last: int) -> tuple[Piece, ...]:
        resume = self.opened.resume
        if resume is None:
            return ()
        objects = resume.objects[first:last]
        if resume.holders is None:
            return tuple(Piece(object=stored) for stored in objects)
        holders = (self._holders[name] for name in resume.holders[first:last])
        return tuple(Piece(object=stored, holder=holder) for stored, holder in zip(objects, holders, strict=True))
