"""Seats: what each node of a generation is told, and that the whole can be put together from what all are told."""

from __future__ import annotations

import pytest

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.log import KeeperAddress, Member, Open, ResumePoint, Skipped, StoreAddress, StoredObject
from tessera_api.seat import GIVEN, PAGE, Holder, Piece
from tessera_coordinator.core.seating import Seating

PREFIX = CheckpointPrefix(step=7, term=1, generation=2, nonce="0f")


def stored(rank: int, ranks: int) -> StoredObject:
    return StoredObject(name=part_name(PREFIX, rank, ranks), size=rank + 1, sha256=f"{rank:064x}")


def opened(nodes: int, processes: int = 1, parts: int = 0, held: bool = False) -> Open:
    members = tuple(
        Member(node=f"n{n}", incarnation="i", processes=processes, keeper=KeeperAddress(host=f"h{n}", port=7000 + n))
        for n in range(nodes)
    )
    resume = None
    if parts:
        holders = tuple(f"n{rank % nodes}" for rank in range(parts)) if held else None
        objects = tuple(stored(rank, parts) for rank in range(parts))
        resume = ResumePoint(step=7, position=70, objects=objects, holders=holders)
    return Open(
        term=3,
        generation=4,
        members=members,
        store=StoreAddress(host="h0", port=5000),
        nonce="ab",
        resume=resume,
        skips=(Skipped(first=1, last=2),),
        time=0.0,
    )


def test_every_member_has_its_own_place_and_all_have_the_same_generation() -> None:
    opening = opened(3, processes=2)
    seating = Seating(opening)
    seats = [seating.seat(name) for name in opening.names()]
    assert [seat.place for seat in seats] == [0, 1, 2]
    assert {(seat.nodes, seat.ranks, seat.digest) for seat in seats} == {(3, 6, opening.short_hash())}
    assert {(seat.nonce, seat.store, seat.skips) for seat in seats} == {("ab", opening.store, opening.skips)}
    assert [seat.resume for seat in seats] == [None] * 3


def test_who_is_no_member_has_no_seat() -> None:
    seating = Seating(opened(2))
    assert "n1" in seating
    assert "n2" not in seating
    with pytest.raises(KeyError):
        seating.seat("n2")


@pytest.mark.parametrize(("nodes", "expected"), [(2, [1, 0]), (3, [1, 2, 0]), (4, [2, 3, 0, 1]), (5, [2, 3, 4, 0, 1])])
def test_copies_go_half_a_round_away_and_each_node_has_those_of_one(nodes: int, expected: list[int]) -> None:
    seating = Seating(opened(nodes))
    neighbours = [seating.seat(f"n{number}").neighbour for number in range(nodes)]
    assert [neighbour.port - 7000 for neighbour in neighbours if neighbour] == expected


def test_a_node_that_is_alone_has_no_neighbour() -> None:
    assert Seating(opened(1)).seat("n0").neighbour is None


def test_few_parts_are_told_to_all() -> None:
    seating = Seating(opened(3, parts=GIVEN))
    for name in ("n0", "n2"):
        resume = seating.seat(name).resume
        assert resume is not None
        assert (resume.first, len(resume.given), resume.pieces, resume.in_memory) == (0, GIVEN, GIVEN, False)
        assert resume.folder == str(PREFIX)


def test_of_many_parts_a_node_is_told_those_of_its_own_ranks_and_may_ask_for_the_rest() -> None:
    nodes, processes = 70, 8
    ranks = nodes * processes
    seating = Seating(opened(nodes, processes, parts=ranks, held=True))
    told: list[Piece] = []
    for number in range(nodes):
        resume = seating.seat(f"n{number}").resume
        assert resume is not None
        assert (resume.first, len(resume.given)) == (number * processes, processes)
        told += resume.given
    asked = [piece for first in range(0, ranks, PAGE) for piece in seating.page(first).pieces]
    assert told == asked
    assert [piece.object for piece in asked] == [stored(rank, ranks) for rank in range(ranks)]
    assert asked[71].holder == Holder(node="n1", host="h1", port=7001)
    assert seating.page(ranks).pieces == ()


def test_a_node_with_ranks_that_had_no_part_is_told_none() -> None:
    resume = Seating(opened(100, parts=99)).seat("n99").resume
    assert resume is not None
    assert (resume.pieces, resume.given) == (99, ())
