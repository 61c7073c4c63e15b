"""A generation begins from memory only where every part of one step is there, and belongs to what the log has open."""

from __future__ import annotations

import pytest

from tessera_api.checkpoint import CheckpointPrefix, part_name
from tessera_api.kept_part import KeptPart
from tessera_api.log import Claim, Commit, Entry, Member, Open, ResumePoint, Rewind, StoreAddress, StoredObject
from tessera_api.messages import Join, Processes
from tessera_coordinator.core.formation import Wanted, draft
from tessera_coordinator.core.history import IllegalEntry, fold
from tessera_coordinator.core.kept import Held, resume_point
from tessera_coordinator.core.nodes import Node
from tessera_coordinator.core.silence import Limits

RANKS = 3


def opened(generation: int = 1, resume: ResumePoint | None = None) -> Open:
    members = tuple(Member(node=node, incarnation="i", processes=1) for node in "abc")
    store = StoreAddress(host="h", port=1)
    return Open(term=1, generation=generation, members=members, store=store, nonce="n", resume=resume, time=0.0)


def objects(step: int, generation: int = 1, digest: str = "0") -> tuple[StoredObject, ...]:
    folder = CheckpointPrefix(step=step, term=1, generation=generation, nonce="n")
    names = [part_name(folder, rank, RANKS) for rank in range(RANKS)]
    return tuple(StoredObject(name=name, size=9, sha256=digest * 64) for name in names)


def commit(step: int, generation: int = 1) -> Commit:
    made = objects(step, generation)
    return Commit(term=1, generation=generation, step=step, position=step, objects=made, time=0.0)


def held(where: dict[int, str], step: int, generation: int = 1, digest: str = "0") -> list[Held]:
    """The parts of some ranks: which nodes hold each, a letter a node."""
    made = objects(step, generation, digest)
    return [Held(node, KeptPart(position=step, object=made[rank])) for rank, nodes in where.items() for node in nodes]


CLAIM = Claim(term=1, holder="x", time=0.0)
COMMITTED: tuple[Entry, ...] = (CLAIM, opened(), commit(10))
ALL = {0: "a", 1: "b", 2: "c"}


def test_the_newest_step_that_is_whole_is_begun_from() -> None:
    point = resume_point(fold(COMMITTED), [*held(ALL, 12), *held(ALL, 14), *held({0: "a", 1: "b"}, 16)])

    assert point == ResumePoint(step=14, position=14, objects=objects(14), holders=("a", "b", "c"))


def test_copies_count_where_the_node_that_made_a_part_is_gone() -> None:
    point = resume_point(fold(COMMITTED), held({1: "b", 2: "cb", 0: "b"}, 14))

    assert point is not None
    assert point.holders == ("b", "b", "c")


def test_a_checkpoint_that_is_in_memory_too_is_read_from_there() -> None:
    point = resume_point(fold(COMMITTED), held(ALL, 10))

    assert point is not None
    assert (point.step, point.objects, point.holders) == (10, objects(10), ("a", "b", "c"))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        held({0: "a", 2: "c"}, 14),
        held(ALL, 8),
        held(ALL, 14, generation=2),
        held(ALL, 10, digest="1"),
        [*held(ALL, 14), *held({1: "a"}, 14, digest="1")],
    ],
    ids=["none", "one is missing", "older", "of another generation", "not the commit's", "two differ"],
)
def test_else_the_last_commit_is(parts: list[Held]) -> None:
    point = resume_point(fold(COMMITTED), parts)

    assert point == ResumePoint(step=10, position=10, objects=objects(10))


def test_before_the_first_commit_memory_is_better_than_nothing() -> None:
    history = fold((CLAIM, opened()))

    assert resume_point(history, []) is None
    point = resume_point(history, held(ALL, 2))
    assert point is not None
    assert point.step == 2


def test_what_a_generation_began_from_serves_again_if_it_is_still_there() -> None:
    from_memory = resume_point(fold(COMMITTED), held(ALL, 14))
    history = fold((*COMMITTED, opened(2, from_memory)))

    again = resume_point(history, held({0: "a", 1: "a", 2: "a"}, 14))
    gone = resume_point(history, held({0: "a", 1: "a"}, 14))

    assert again == from_memory.model_copy(update={"holders": ("a", "a", "a")}) if from_memory else False
    assert gone == ResumePoint(step=10, position=10, objects=objects(10))


def test_what_a_rewind_threw_away_is_not_begun_from() -> None:
    back = Rewind(term=1, generation=1, to_step=10, from_step=14, reason="spike", time=0.0)

    point = resume_point(fold((*COMMITTED, back)), held(ALL, 14))

    assert point is not None
    assert (point.step, point.holders) == (10, None)


@pytest.mark.parametrize(
    "point",
    [
        ResumePoint(step=14, position=14, objects=objects(14, generation=9), holders=("a", "b", "c")),
        ResumePoint(step=14, position=14, objects=objects(14)[:2], holders=("a", "b")),
        ResumePoint(step=8, position=8, objects=objects(8), holders=("a", "b", "c")),
        ResumePoint(step=14, position=14, objects=(), holders=()),
    ],
    ids=["another generation's", "not all", "older than the commit", "nothing"],
)
def test_the_log_takes_no_other_beginning(point: ResumePoint) -> None:
    with pytest.raises(IllegalEntry, match="no snapshot of step"):
        fold((*COMMITTED, opened(2, point)))


def offering(name: str, port: int | None) -> Node:
    node = Node(name, "i", "h", 1, 0, 0.0)
    facts = Processes(agent_pid=1)
    kept = (KeptPart(position=2, object=objects(2)[0]),)
    node.join = Join(sequence=1, store_port=1, processes=facts, keeper_port=port, kept=kept)
    return node


def test_members_keepers_are_named_where_all_have_one() -> None:
    for ports, named in (((7, 8), True), ((7, None), False)):
        nodes = [offering(name, port) for name, port in zip("ab", ports, strict=True)]
        opening = draft(nodes, None, Wanted(2, 2), Limits(), 0.0).opening
        assert opening is not None
        assert [member.keeper is not None for member in opening.members] == [named, named]
        assert len(opening.held) == (2 if named else 0)
