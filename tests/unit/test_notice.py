"""A node that knows its end beforehand: it hands over with a commit where there is time, and nothing is counted."""

from __future__ import annotations

import pytest

from tessera_api.failure import FailureClass, Rung
from tessera_api.journal import EventName
from tessera_api.messages import Leave, Phase, StopOrder
from tessera_api.orders import Size, WarnedNode, Warnings
from tessera_api.trouble import TroubleKind
from tessera_coordinator.core.effects import GenerationOver, Judged
from tessera_coordinator.core.notice import MARGIN_SECONDS, noticed, warned
from tests.unit.run_world import World, running


def notice(world: World, node: str, seconds: float = 30.0, commit: float = 2.0) -> None:
    leave = Leave(reason="drained", within_seconds=seconds)
    world.carry_out(noticed(world.machine, node, leave, commit, world.now))


def orders(world: World, node: str) -> list[StopOrder]:
    return [message for message in world.agents[node].inbox if isinstance(message, StopOrder)]


def parked_and_committed(world: World, step: int) -> None:
    world.carry_out(world.machine.phase(world.number(), Phase.PARKED, step, world.now))
    world.carry_out(world.machine.committed(world.number(), step, world.now))


def test_all_park_and_commit_and_the_next_generation_is_without_it() -> None:
    world = running(spares=1)
    notice(world, "n0")

    (order,) = orders(world, "n1")
    assert order.deadline_seconds == pytest.approx(30 - MARGIN_SECONDS)
    parked_and_committed(world, 20)
    assert [(over.nodes, over.planned) for over in world.others if isinstance(over, GenerationOver)] == [((), True)]
    for name in ("n1", "n2"):
        world.join(name)
    world.carry_out(world.machine.leave("n0", "handed over", world.now))
    assert (world.members(), world.lost()) == (("n1", "n2", "s0"), [])


def test_a_controller_that_says_the_size_again_changes_nothing_about_a_node_that_ends() -> None:
    world = running(count=2, least=1, spares=1)
    world.carry_out(world.machine.resize(Size(count=2, min=1), world.now))
    notice(world, "n0")
    world.said.clear()
    world.carry_out(world.machine.resize(Size(count=2, min=1), world.now))
    parked_and_committed(world, 20)
    for name in ("n0", "n1"):  # it offers itself all the same
        world.join(name)

    assert (world.members(), [event.name for event in world.said if event.name is EventName.NOTE]) == (("n1", "s0"), [])


def test_without_a_spare_the_run_shrinks() -> None:
    world = running()
    notice(world, "n2")
    parked_and_committed(world, 20)
    for name in ("n0", "n1"):
        world.join(name)
    world.carry_out(world.machine.leave("n2", "handed over", world.now))

    assert world.members() == ("n0", "n1")


def test_where_a_commit_takes_longer_than_is_left_none_is_begun() -> None:
    world = running()
    notice(world, "n0", seconds=10.0, commit=10.0)

    assert orders(world, "n1") == []
    (said,) = [event for event in world.said if event.name is EventName.NOTE]
    assert (said.node, "none is begun" in said.message) == ("n0", True)


def test_a_second_notice_waits_for_the_order_that_is_in_force() -> None:
    world = running(spares=1)
    notice(world, "n0")
    notice(world, "n1", seconds=20.0)

    assert len(orders(world, "n2")) == 1
    parked_and_committed(world, 20)
    world.join("n2")
    for name in ("n0", "n1"):
        world.carry_out(world.machine.leave(name, "handed over", world.now))
    assert world.members() == ("n2", "s0")


def test_a_spare_that_is_about_to_end_takes_no_place() -> None:
    world = running(spares=2)
    notice(world, "s0")
    assert orders(world, "n0") == []
    world.reap("n1")
    world.close_stream("n1")
    world.after(0.4)
    for name in ("n0", "n2"):
        world.join(name)

    assert world.members() == ("n0", "n2", "s1")


def test_a_node_that_is_told_too_late_is_no_more_than_a_node_that_leaves() -> None:
    world = running(spares=1)
    notice(world, "n0", seconds=1.0)
    world.after(1.0)
    world.carry_out(world.machine.leave("n0", "told to end", world.now))
    for name in ("n1", "n2"):
        world.join(name)

    assert world.members() == ("n1", "n2", "s0")


def warning(*nodes: str, seconds: float = 60.0, sick: bool = False) -> Warnings:
    return Warnings(
        nodes=tuple(WarnedNode(node=node, reason="a taint", within_seconds=seconds, sick=sick) for node in nodes)
    )


def warn(world: World, said: Warnings) -> None:
    world.carry_out(warned(world.machine, said, 2.0, world.now))


def test_a_node_that_its_machine_warns_of_hands_over_once_and_stays_as_a_spare_that_nobody_takes() -> None:
    world = running(spares=1)
    for _ in range(2):
        warn(world, warning("n0"))

    assert len(orders(world, "n1")) == 1
    parked_and_committed(world, 20)
    for name in ("n0", "n1", "n2"):
        world.join(name)
    assert world.members() == ("n1", "n2", "s0")
    world.reap("s0")
    world.close_stream("s0")
    world.after(1)
    for name in ("n1", "n2"):
        world.join(name)
    assert world.members() == ("n1", "n2")


def test_a_warning_that_is_taken_back_makes_the_node_as_good_as_any_other() -> None:
    world = running(count=2, least=1)
    warn(world, warning("n0"))
    parked_and_committed(world, 20)
    for name in ("n0", "n1"):
        world.join(name)
    assert world.members() == ("n1",)

    warn(world, warning())
    world.after(12, steps_by=("n1",))

    assert len(orders(world, "n1")) == 2, "it grows again"


def test_where_the_others_are_too_few_a_commit_is_taken_and_the_node_trains_on() -> None:
    world = running(count=2, least=2)
    warn(world, warning("n0"))
    parked_and_committed(world, 20)
    for name in ("n0", "n1"):
        world.join(name)

    assert world.members() == ("n0", "n1")
    world.after(30, steps_by=("n0", "n1"))
    assert len(orders(world, "n1")) == 1


def test_what_fails_on_a_machine_whose_devices_are_sick_is_theirs_and_it_is_replaced() -> None:
    world = running(spares=1)
    warn(world, warning("n1", seconds=0.0, sick=True))
    world.trouble("n1", TroubleKind.EXCEPTION, "train.py:3 RuntimeError")
    for name in ("n1", "n0", "n2"):
        world.join(name)

    (judged,) = [effect.ruling for effect in world.others if isinstance(effect, Judged)]
    assert (judged.cause.failure, judged.rung) == (FailureClass.SICK_DEVICE, Rung.REPLACE)
    assert judged.cause.words == "a taint; broken"
    assert world.members() == ("n0", "n2", "s0")
