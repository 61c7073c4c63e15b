"""A checkpoint exists once every rank of the open generation has reported its part, and no sooner."""

from __future__ import annotations

import pytest

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.log import Member, Open, StoreAddress, StoredObject
from tessera_api.messages import Part
from tessera_coordinator.core.commits import PartRefused, Parts, ReadyCommit

OPEN = Open(
    term=2,
    generation=5,
    members=(Member(node="a", incarnation="1", processes=2), Member(node="b", incarnation="1", processes=1)),
    store=StoreAddress(host="h", port=1),
    nonce="ab",
    time=0.0,
)


def stored(rank: int, step: int = 10, **place: object) -> StoredObject:
    where = {"step": step, "term": 2, "generation": 5, "nonce": "ab", **place}
    return StoredObject(name=part_name(CheckpointPrefix.model_validate(where), rank, 3), size=rank, sha256="0" * 64)


def part(rank: int, step: int = 10, position: int = 640, seconds: float = 1.0, stall: float = 0.0) -> Part:
    return Part(
        generation=5,
        rank=rank,
        step=step,
        position=position,
        objects=(stored(rank, step),),
        seconds=seconds,
        stall_seconds=stall,
    )


def test_it_is_complete_with_the_last_rank_whatever_the_order() -> None:
    parts = Parts(OPEN)

    told = [parts.add(part(2, seconds=3.0)), parts.add(part(0, stall=0.5)), parts.add(part(1))]

    whole = ReadyCommit(5, 10, 640, (stored(0), stored(1), stored(2)), 3.0, 0.5)
    assert told == [None, None, whole]


def test_a_part_that_is_said_again_does_not_count_twice() -> None:
    parts = Parts(OPEN)

    assert [parts.add(part(0)), parts.add(part(0)), parts.add(part(1)), parts.add(part(1))] == [None] * 4


def test_two_checkpoints_may_be_under_way_at_once() -> None:
    parts = Parts(OPEN)
    for rank in (0, 1):
        parts.add(part(rank, step=10))
        parts.add(part(rank, step=20, position=1280))

    later = parts.add(part(2, step=20, position=1280))
    earlier = parts.add(part(2, step=10))

    assert (later.step if later else None, earlier.step if earlier else None) == (20, 10)


def test_ranks_that_disagree_about_the_data_position_are_refused() -> None:
    parts = Parts(OPEN)
    parts.add(part(0))

    with pytest.raises(PartRefused, match="rank 1 is at position 641, rank 0 at 640"):
        parts.add(part(1, position=641))


@pytest.mark.parametrize("rank", [3, 99])
def test_a_rank_outside_the_world_is_refused(rank: int) -> None:
    with pytest.raises(PartRefused, match="world of 3"):
        Parts(OPEN).add(part(rank))


@pytest.mark.parametrize("place", [{"step": 11}, {"term": 1}, {"generation": 4}, {"nonce": "cd"}], ids=str)
def test_an_object_outside_the_generations_own_folder_is_refused(place: dict[str, object]) -> None:
    foreign = part(0).model_copy(update={"objects": (stored(0), stored(0, **place))})  # type: ignore[arg-type]

    with pytest.raises(PartRefused, match=r"not in the folder of step 10 of generation 2\.5"):
        Parts(OPEN).add(foreign)


def test_an_object_outside_any_checkpoint_is_refused() -> None:
    foreign = part(0).model_copy(update={"objects": (StoredObject(name="log/00000001", size=1, sha256="0" * 64),)})

    with pytest.raises(PartRefused):
        Parts(OPEN).add(foreign)


def test_what_is_committed_needs_no_parts_any_more_and_what_is_newer_keeps_them() -> None:
    parts = Parts(OPEN, committed=4)
    for rank in (0, 1):
        parts.add(part(rank, step=10))
        parts.add(part(rank, step=20))

    parts.committed(10)

    assert [parts.done(step) for step in (4, 10, 11, 20)] == [True, True, False, False]
    assert parts.add(part(2, step=10)) is None
    last = parts.add(part(2, step=20))
    assert last is not None
    assert last.step == 20
