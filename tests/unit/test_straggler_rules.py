"""Stragglers, as the coordinator sees them: named, and replaced where the run says so and another node stands ready."""

from __future__ import annotations

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import EventName
from tessera_api.messages import Closed, Phase
from tessera_api.training_run_status import MOST_SHOWN, TrainingRunStatus
from tessera_coordinator.core.effects import Announce
from tessera_coordinator.core.stragglers import Stragglers
from tests.unit.run_world import World

NODES = ("a", "b", "c")


def trains(*more: str) -> World:
    """A run of three nodes, and what else is there, past the time in which it does not change."""
    world = World(count=3, least=1)
    world.arrive(*NODES)
    assert world.members() == NODES
    world.arrive(*more)
    for _ in range(15):
        world.step(*NODES)
        world.after(1)
    return world


def hears(world: World, stragglers: Stragglers, numbers: dict[str, float]) -> list[str]:
    """What was told of it."""
    effects = stragglers.heard(world.machine, numbers)
    world.carry_out(effects)
    told = [effect for effect in effects if isinstance(effect, Announce)]
    assert all(effect.name is EventName.STRAGGLER for effect in told)
    return [f"{effect.node}: {effect.message}" for effect in told]


def test_a_straggler_is_named_once_and_shown_while_it_is_one() -> None:
    world, stragglers = trains(), Stragglers(replaces=False)

    first = hears(world, stragglers, {"lr": 1e-3, "straggler_1": 1.75, "straggler_2": 2.5})
    again = hears(world, stragglers, {"straggler_1": 1.8})

    assert sorted(first) == [
        "b: rank 1 works 1.75 times as long as others",
        "c: rank 2 works 2.50 times as long as others",
    ]
    assert again == []
    assert [(one.node, one.rank, one.score) for one in stragglers.shown] == [("b", 1, "1.80")]
    hears(world, stragglers, {"lr": 1e-3})
    assert stragglers.shown == ()


def test_the_slowest_is_shown_first() -> None:
    world, stragglers = trains(), Stragglers(replaces=False)
    hears(world, stragglers, {"straggler_0": 1.5, "straggler_2": 2.5, "straggler_1": 1.4})
    assert [one.node for one in stragglers.shown] == ["c", "a", "b"]


def test_no_more_are_shown_than_the_status_has_room_for_whatever_a_program_says() -> None:
    names = tuple(f"n{number}" for number in range(12))
    world, stragglers = World(count=12, least=1), Stragglers(replaces=False)
    world.arrive(*names)
    hears(world, stragglers, {f"straggler_{rank}": 2.0 + rank for rank in range(12)})
    assert [one.rank for one in stragglers.shown] == list(range(11, 3, -1))
    assert len(TrainingRunStatus.model_validate({"stragglers": stragglers.shown}).stragglers or ()) == MOST_SHOWN


def test_a_score_beyond_reason_is_shown_as_the_most_that_there_is() -> None:
    world, stragglers = trains(), Stragglers(replaces=False)
    hears(world, stragglers, {"straggler_0": float("nan"), "straggler_1": 1e300, "straggler_2": -1e300})
    assert [(one.rank, one.score) for one in stragglers.shown] == [(1, "9999.00")]


def test_nobody_is_replaced_where_the_run_only_wants_to_be_told() -> None:
    world, stragglers = trains("d"), Stragglers(replaces=False)
    hears(world, stragglers, {"straggler_1": 2.0})
    world.after(5)
    assert world.machine.parking.order is None
    assert world.members() == NODES


def test_a_straggler_hands_over_to_a_spare_and_is_sent_away() -> None:
    world, stragglers = trains("d"), Stragglers(replaces=True)

    hears(world, stragglers, {"straggler_1": 2.0})
    world.after(1)
    assert world.machine.parking.order is not None
    assert "to go on without b" in world.machine.parking.order.reason
    assert world.members() == NODES

    world.carry_out(world.machine.phase(world.number(), Phase.PARKED, 99, world.now))
    world.carry_out(world.machine.committed(world.number(), 99, world.now))
    for name in NODES:
        world.join(name)
    world.after(1)
    assert world.members() == ("a", "c", "d")
    world.carry_out(stragglers.look(world.machine))
    last = world.agents["b"].inbox[-1]
    assert isinstance(last, Closed)
    assert last.exit_code == ExitCode.REPLACED
    assert world.machine.roster.get("b") is None


def test_a_straggler_trains_on_where_nobody_stands_ready() -> None:
    world, stragglers = trains(), Stragglers(replaces=True)
    hears(world, stragglers, {"straggler_1": 2.0})
    world.after(5)
    assert world.machine.parking.order is None
    world.carry_out(stragglers.look(world.machine))
    assert world.members() == NODES


def test_few_are_replaced() -> None:
    world, stragglers = trains("d", "e"), Stragglers(replaces=True)
    for rank in (1, 2):
        hears(world, stragglers, {f"straggler_{rank}": 2.0})
    assert world.machine.wanted.slow == {"b"}


def test_nonsense_of_a_program_of_ones_own_names_nobody() -> None:
    world, stragglers = trains(), Stragglers(replaces=True)
    numbers = {"straggler_": 2.0, "straggler_x": 2.0, "straggler_99": 2.0, "straggler_-1": 3.0}
    assert hears(world, stragglers, numbers) == []
    assert stragglers.shown == ()
