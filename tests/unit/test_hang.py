"""A generation in which nobody computes anything: found, explained, ended; and everything that is none."""

from __future__ import annotations

import pytest

from tessera_api.failure import Rung
from tessera_api.inspection import Collective, Inspect, Inspected, RankSeen
from tessera_api.journal import EventName
from tessera_api.messages import Phase
from tessera_coordinator.core.effects import Fail, GenerationOver, Judged
from tessera_coordinator.core.failures import Sign
from tessera_coordinator.core.hang import HangLimits, Hangs
from tests.unit.run_world import World, running

NODES = ("n0", "n1", "n2")
WAITS = {"state": "sleeping", "collective": True, "at": "exact.py:90 run"}


def training(limits: HangLimits | None = None, **agent: object) -> World:
    """Three nodes whose trainers are connected, with steps of half a second."""
    world = running()
    world.machine.hangs = Hangs(limits or HangLimits())
    world.machine.hangs.begun(world.now)
    for name in NODES:
        world.agents[name].workers = (1,)
        for field, value in agent.items():
            setattr(world.agents[name], field, value)
    world.after(1, steps_by=NODES)
    return world


def asked(world: World) -> set[str]:
    return {name for name in NODES if any(isinstance(message, Inspect) for message in world.agents[name].inbox)}


def until_asked(world: World, nodes: tuple[str, ...] = NODES) -> None:
    for _ in range(30_000):
        if all(any(isinstance(message, Inspect) for message in world.agents[name].inbox) for name in nodes):
            return
        world.after(0.1)
    raise AssertionError("nobody was asked")


def answer(world: World, **ranks: dict[str, object]) -> None:
    """Each node's one rank: by name (`n1={...}`), the others wait in a collective."""
    for rank, name in enumerate(NODES):
        seen = RankSeen.model_validate({"rank": rank, **WAITS, **ranks.get(name, {})})
        world.machine.hangs.inspected(name, Inspected(generation=world.number(), ranks=(seen,)))


def hangs(world: World) -> list[tuple[str | None, str]]:
    return [(event.node, event.message) for event in world.said if event.name is EventName.HANG]


def test_nodes_that_beat_and_compute_nothing_are_asked_and_then_begin_anew() -> None:
    world = training()
    world.after(59)
    assert asked(world) == set()
    world.after(2)
    assert asked(world) == set(NODES)
    answer(world, n1={"state": "stopped", "collective": False, "at": ""})
    world.after(0.2)

    words = "hang: nothing was computed for 61 s in phase train: rank 1 on n1 is stopped, while others wait"
    assert hangs(world) == [("n1", words)]
    assert [(over.cause, over.nodes) for over in world.others if isinstance(over, GenerationOver)] == [(words, ())]
    assert world.told_to_restart() == set(NODES)
    for name in NODES:
        world.join(name)
    assert (world.number(), world.members()) == (2, NODES)


def test_a_hang_soon_after_a_restart_is_found_as_soon_once_a_first_step_is_made() -> None:
    world = training()
    hangs_at(world, NODES, "mine.py:7 spin")
    assert (world.number(), world.members()) == (2, NODES)
    world.after(50)
    assert asked(world) == set(), "code may be compiled until the first step"
    world.step(*NODES)
    world.after(58)
    assert asked(world) == set()
    world.after(3)
    assert asked(world) == set(NODES)


def test_the_time_counts_from_the_last_step_itself_and_not_from_the_beat_that_told_of_it() -> None:
    world = training()
    world.after(0.4)
    world.step(*NODES)
    world.after(59.8)
    assert asked(world) == set()
    world.after(0.3)
    assert asked(world) == set(NODES)


def test_who_does_not_answer_is_waited_for_so_long() -> None:
    world = training()
    until_asked(world)
    answer(world)
    world.machine.hangs._seen.pop("n2")
    world.after(HangLimits().evidence - 0.2)
    assert hangs(world) == []
    world.after(0.4)
    assert [node for node, _ in hangs(world)] == [None]


def test_who_was_not_asked_and_answers_of_another_generation_are_not_heard() -> None:
    world = training()
    until_asked(world)
    for node, generation in (("stranger", 1), ("n0", 7)):
        odd = RankSeen(rank=0, state="stopped")
        world.machine.hangs.inspected(node, Inspected(generation=generation, ranks=(odd,)))
    answer(world, n1={"state": "stopped", "collective": False, "at": ""})
    world.after(0.2)

    assert [node for node, _ in hangs(world)] == ["n1"]


def test_a_rank_that_spins_is_named_with_the_line_at_which_it_stands() -> None:
    world = training()
    world.after(61)
    answer(world, n2={"state": "running", "collective": False, "at": "mine.py:7 spin"})
    world.after(0.2)

    ((node, words),) = hangs(world)
    assert (node, "rank 2 on n2 is running at mine.py:7 spin" in words) == ("n2", True)


def test_ranks_that_all_wait_for_each_other_are_told_apart_by_nobody() -> None:
    world = training()
    world.after(61)
    answer(world)
    world.after(0.2)

    assert "no rank differs" in hangs(world)[0][1]


def waits(number: int, operation: str = "all_reduce Float[8]", group: str = "default_pg") -> dict[str, object]:
    return {"waits_in": Collective(group=group, number=number, operation=operation)}


@pytest.mark.parametrize(
    ("n0", "n1", "n2", "node", "words"),
    [
        (
            51,
            50,
            51,
            "n1",
            "rank 1 on n1 is sleeping at exact.py:90 run, in all_reduce Float[8], number 50 of default_pg",
        ),
        (51, 51, (51, "all_gather Float[8]"), "n2", "in all_gather Float[8], number 51 of default_pg"),
        (51, 51, 51, None, "no rank differs"),
        (51, (51, "broadcast Float[8]"), (51, "all_gather Float[8]"), None, "no rank differs"),
        (51, (3, "send Float[8]", "stage"), (7, "send Float[8]", "stage"), "n1", "in send Float[8], number 3 of stage"),
    ],
    ids=["behind", "another operation", "all the same", "no two agree", "behind in a group of theirs"],
)
def test_of_ranks_that_all_wait_the_one_that_is_behind_or_called_something_else_is_named(
    n0: object, n1: object, n2: object, node: str | None, words: str
) -> None:
    world = training()
    world.after(61)
    said = [waits(*one) if isinstance(one, tuple) else waits(one) for one in (n0, n1, n2)]  # type: ignore[arg-type]
    answer(world, **dict(zip(NODES, said, strict=True)))
    world.after(0.2)

    ((named, told),) = hangs(world)
    assert (named, words in told) == (node, True), told


def test_of_those_that_wait_for_a_rank_the_collective_is_told() -> None:
    world = training()
    world.after(61)
    answer(world, n0=waits(51), n1={"state": "stopped", "collective": False, "at": ""}, n2=waits(51))
    world.after(0.2)

    assert hangs(world)[0][1].endswith(
        "rank 1 on n1 is stopped, while others wait in all_reduce Float[8], number 51 of default_pg"
    )


def test_micro_batches_inside_a_long_step_are_no_hang() -> None:
    world = training()
    for _ in range(4):
        world.after(50)
        world.agents["n1"].units += 1
    assert (asked(world), hangs(world)) == (set(), [])


def test_a_step_that_comes_while_they_are_asked_saves_the_generation() -> None:
    world = training()
    world.after(61)
    assert asked(world) == set(NODES)
    world.step(*NODES)
    world.after(20)

    assert (hangs(world), world.number()) == ([], 1)


def test_steps_that_take_long_by_nature_have_five_of_them() -> None:
    world = training()
    world.after(500, steps_by=NODES, step_seconds=20)
    world.after(75)
    assert asked(world) == set()
    world.after(50)
    assert asked(world) == set(NODES)


@pytest.mark.parametrize("phase", [Phase.CHECKPOINT, Phase.EVALUATION, Phase.EXPORT])
def test_what_is_declared_has_a_limit_of_its_own(phase: Phase) -> None:
    world = training(limits=HangLimits(declared=900))
    world.agents["n0"].phase = phase
    world.after(890)
    assert asked(world) == set()
    world.after(15)
    assert asked(world) == set(NODES)


def test_a_rank_that_reads_is_no_hang_and_is_asked_again_now_and_then_until_it_has_read_for_too_long() -> None:
    world = training(limits=HangLimits(reading=200))
    questions = 0
    while not hangs(world):
        until_asked(world)
        questions += 1
        for name in NODES:
            world.agents[name].inbox.clear()
        answer(world, n1={"collective": False, "reading": True, "at": "reader.py:90 read"})
        world.after(0.2)

    assert questions == 4
    assert "rank 1 on n1 is sleeping at reader.py:90 read" in hangs(world)[0][1]


def test_a_rank_that_has_read_and_goes_on_is_forgiven() -> None:
    world = training()
    until_asked(world)
    answer(world, n1={"collective": False, "reading": True})
    world.after(5, steps_by=NODES)
    for name in NODES:
        world.agents[name].inbox.clear()
    world.after(58)
    assert asked(world) == set()


def test_before_the_fifth_step_the_limit_of_the_start_holds() -> None:
    world = World()
    world.arrive(*NODES)
    for name in NODES:
        world.agents[name].workers = (1,)
    world.after(2, steps_by=NODES)
    world.after(1790)
    assert asked(world) == set()
    world.after(15)
    assert asked(world) == set(NODES)


def test_a_program_that_says_nothing_of_itself_is_never_found_standing_still() -> None:
    world = training(workers=())
    world.after(4000)

    assert asked(world) == set()


def test_nodes_that_have_parked_wait_for_their_order() -> None:
    world = training()
    world.agents["n0"].phase = Phase.PARKED
    world.after(4000)

    assert asked(world) == set()


def test_time_in_which_the_coordinator_was_not_awake_does_not_count() -> None:
    world = training()
    world.after(40)
    world.now += 100.0
    world.after(50)
    assert asked(world) == set()
    world.after(12)
    assert asked(world) == set(NODES)


def test_a_restarted_coordinator_counts_anew() -> None:
    world = training()
    world.after(50)
    again = world.restarted()
    again.after(50)
    assert asked(again) == set()


def test_while_a_member_is_silent_nobody_is_said_to_hang() -> None:
    world = training()
    world.agents["n2"].beats = False
    world.reads = True
    world.after(2.5)

    assert asked(world) == set()


def hangs_at(world: World, nodes: tuple[str, ...], line: str) -> None:
    """The second of the nodes spins there; all begin anew."""
    until_asked(world, nodes)
    for rank, name in enumerate(nodes):
        doing = {"state": "running", "collective": False, "at": line} if rank == 1 else WAITS
        seen = RankSeen.model_validate({"rank": rank, **doing})
        world.machine.hangs.inspected(name, Inspected(generation=world.number(), ranks=(seen,)))
    world.after(0.2)
    for name in nodes:
        world.agents[name].inbox.clear()
        world.join(name)
    world.after(5)


def test_hangs_at_one_line_are_answered_by_a_proof_then_by_another_node_and_end_the_run_if_it_hangs_too() -> None:
    world = training()
    world.arrive("s0")
    world.agents["s0"].workers = (1,)
    hangs_at(world, NODES, "mine.py:7 spin")
    assert world.members() == NODES
    hangs_at(world, NODES, "mine.py:7 spin")
    assert world.members() == ("n0", "n2", "s0")
    for _ in range(2):
        hangs_at(world, ("n0", "n2", "s0"), "mine.py:7 spin")

    (failed,) = [effect for effect in world.others if isinstance(effect, Fail)]
    assert "hang at mine.py:7 spin" in failed.message
    judged = [effect.ruling for effect in world.others if isinstance(effect, Judged)]
    assert [ruling.rung for ruling in judged] == [Rung.RE_FORM, Rung.REPLACE, Rung.RESTART, Rung.END]


def test_what_the_ranks_were_doing_is_kept_with_the_hang() -> None:
    world = training()
    world.after(61)
    answer(world, n1={"state": "running", "collective": False, "at": "mine.py:7 spin", "stack": "STACK", "log": "LOG"})
    world.after(0.2)
    for name in NODES:
        world.join(name)

    (judged,) = [effect for effect in world.others if isinstance(effect, Judged)]
    (finding,) = [found for found in judged.findings if found.sign is Sign.HANG]
    assert finding.log.startswith("rank 1 on n1, running at mine.py:7 spin\nSTACK\nLOG\nrank 0 on n0, sleeping")
    assert (judged.ruling.cause.node, judged.ruling.cause.rank) == ("n1", 1)
