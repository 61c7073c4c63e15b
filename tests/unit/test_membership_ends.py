"""Growth, stops and ends of a run, as the membership machine decides them."""

from __future__ import annotations

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import EventName
from tessera_api.messages import Closed, Phase, StopOrder, Verdict, VerdictWord
from tessera_api.orders import Size
from tessera_api.trouble import TroubleKind
from tessera_coordinator.core.effects import Close, Complete, Fail
from tessera_coordinator.core.state import State
from tests.unit.run_world import World, running


def test_growth_waits_for_its_cool_down_then_parks_commits_and_opens_a_larger_generation() -> None:
    world = running(least=2)
    world.reap("n2")
    world.close_stream("n2")
    world.after(0.4)
    world.join("n0")
    world.join("n1")
    world.arrive("new")
    world.after(9, steps_by=("n0", "n1"))
    assert not any(isinstance(message, StopOrder) for message in world.agents["n0"].inbox)
    world.after(3, steps_by=("n0", "n1"))
    assert any(isinstance(message, StopOrder) for message in world.agents["n0"].inbox)
    world.carry_out(world.machine.phase(2, Phase.PARKED, 40, world.now))
    assert world.members() == ("n0", "n1")
    world.carry_out(world.machine.committed(2, 40, world.now))
    world.join("n0")
    world.join("n1")
    assert (world.members(), world.number()) == (("n0", "n1", "new"), 3)


def parked_and_committed(world: World, generation: int, step: int) -> None:
    assert any(isinstance(message, StopOrder) for message in world.agents["n0"].inbox)
    world.carry_out(world.machine.phase(generation, Phase.PARKED, step, world.now))
    world.carry_out(world.machine.committed(generation, step, world.now))


def test_a_run_that_is_to_have_more_nodes_grows_by_its_spare_at_a_step_boundary() -> None:
    world = running(count=2, least=1, spares=1)
    world.carry_out(world.machine.resize(Size(count=3, min=1), world.now))
    world.after(10, steps_by=("n0", "n1"))
    parked_and_committed(world, 1, 30)
    for name in ("n0", "n1"):
        world.join(name)
    assert (world.members(), world.number(), world.lost()) == (("n0", "n1", "s0"), 2, [])


def test_a_run_that_is_to_have_fewer_nodes_goes_on_without_those_that_are_to_leave() -> None:
    world = running(count=3, least=1)
    world.carry_out(world.machine.resize(Size(count=1, min=1, leaving=("n0", "n2")), world.now))
    world.after(10, steps_by=("n0", "n1", "n2"))
    assert (world.members(), world.told_to_restart()) == (("n0", "n1", "n2"), set())
    parked_and_committed(world, 1, 30)
    for name in ("n0", "n1", "n2"):
        world.join(name)
    world.after(20, steps_by=("n1",))
    assert (world.members(), world.number(), world.lost()) == (("n1",), 2, [])


def test_the_same_size_told_again_changes_nothing() -> None:
    world = running(count=2, least=1)
    size = Size(count=2, min=1, leaving=("n9",))
    world.carry_out(world.machine.resize(size, world.now))
    world.said.clear()
    world.carry_out(world.machine.resize(size, world.now))
    world.after(20, steps_by=("n0", "n1"))
    assert (world.said, world.number()) == ([], 1)


def test_a_run_that_waits_for_too_many_nodes_begins_once_fewer_are_wanted() -> None:
    world = World(count=3, least=3)
    world.arrive("n0", "n1")
    world.after(40)
    assert world.members() == ()
    world.carry_out(world.machine.resize(Size(count=2, min=2), world.now))
    assert world.members() == ("n0", "n1")


def test_a_stop_parks_commits_and_sends_everybody_home() -> None:
    world = running(spares=1)
    world.carry_out(world.machine.stop_run("interrupt", 60.0, world.now))
    assert all(any(isinstance(m, StopOrder) for m in world.agents[n].inbox) for n in ("n0", "n1", "n2"))
    world.carry_out(world.machine.committed(1, 20, world.now))
    world.carry_out(world.machine.phase(1, Phase.PARKED, 20, world.now))
    assert world.others == [Close("stopped at step 20: interrupt", ExitCode.STOPPED)]
    assert all(isinstance(agent.inbox[-1], Closed) for agent in world.agents.values())


def test_a_node_whose_assignment_was_lost_is_told_how_much_of_the_deadline_is_left() -> None:
    world = running()
    world.after(20, steps_by=("n0", "n1", "n2"))
    world.carry_out(world.machine.stop_run("interrupt", 30.0, world.now))
    world.after(10)

    agent = world.agents["n1"]
    agent.joins -= 1
    world.join("n1")

    order = agent.inbox[-1]
    assert isinstance(order, StopOrder)
    assert order.deadline_seconds == pytest.approx(20.0)


def test_a_stop_that_is_not_obeyed_ends_at_its_deadline() -> None:
    world = running()
    world.carry_out(world.machine.stop_run("interrupt", 5.0, world.now))
    world.after(6, steps_by=("n0", "n1", "n2"))
    assert [type(effect) for effect in world.others] == [Close]


def test_the_run_is_complete_when_every_member_has_finished_and_spares_go_home() -> None:
    world = running(spares=1)
    for name in ("n0", "n1", "n2"):
        world.carry_out(world.machine.finished(name, 1, world.now))
    assert world.others == [Complete(1)]
    world.carry_out(world.machine.close("complete", ExitCode.DONE))
    assert world.agents["n0"].inbox[-1] == Verdict(generation=1, say=VerdictWord.GO)
    assert isinstance(world.agents["s0"].inbox[-1], Closed)


def test_a_node_that_finished_must_do_it_again_when_another_is_lost_before_the_end() -> None:
    world = running()
    world.carry_out(world.machine.finished("n0", 1, world.now))
    world.reap("n1")
    world.close_stream("n1")
    world.after(0.4)
    assert world.agents["n0"].inbox[-1] == Verdict(generation=1, say=VerdictWord.REDO)


@pytest.mark.parametrize("places", [("a:1", "a:1", "a:1")])
def test_three_generations_that_end_at_the_same_line_without_a_new_step_end_the_run(places: tuple[str, ...]) -> None:
    world = World(count=1, least=1)
    world.arrive("n0")
    for place in places:
        world.trouble("n0", TroubleKind.EXCEPTION, place)
        world.join("n0")
    failures = [effect for effect in world.others if isinstance(effect, Fail)]
    assert len(failures) == 1
    assert "a:1" in failures[0].message
    assert world.number() == 3


def test_failures_at_the_same_line_with_progress_between_them_never_end_the_run() -> None:
    world = World(count=1, least=1)
    world.arrive("n0")
    for best in range(10):
        world.carry_out(world.machine.stepped(world.number(), best, world.now, world.now))
        world.trouble("n0", TroubleKind.EXCEPTION, "a:1")
        world.join("n0")
    assert not any(isinstance(effect, Fail) for effect in world.others)


def test_a_storage_that_is_out_never_ends_the_run() -> None:
    world = World(count=1, least=1)
    world.arrive("n0")
    for _ in range(10):
        world.trouble("n0", TroubleKind.STORAGE, "restore.py:9 StoreUnavailable")
        world.join("n0")
        world.after(61)
    assert not any(isinstance(effect, Fail | Close) for effect in world.others)
    assert world.number() == 11


def test_infrastructure_alone_never_ends_the_run() -> None:
    world = World(count=1, least=1)
    world.arrive("n0")
    for attempt in range(20):
        world.agents["n0"].incarnation = f"i{attempt + 2}"
        world.hello("n0")
        world.join("n0")
        world.after(61)
    assert not any(isinstance(effect, Fail | Close) for effect in world.others)
    assert world.number() == 21


def test_a_worker_that_ends_at_once_again_and_again_without_a_word_is_started_ever_slower() -> None:
    world = World(count=1, least=1)
    world.arrive("n0")
    opened = []
    for _ in range(6):
        world.join("n0")
        before = world.now
        while world.machine.state is not State.OPEN:
            world.after(0.1)
        opened.append(round(world.now - before, 1))
    assert opened == [0.0, 0.0, 1.0, 2.0, 4.0, 8.0]
    assert not any(isinstance(effect, Fail | Close) for effect in world.others)


@pytest.mark.parametrize(("place", "ends"), [("exit code 3", True), ("", False)])
def test_an_end_without_a_word_counts_if_it_was_the_programs_own(place: str, ends: bool) -> None:
    world = World(count=1, least=1)
    world.arrive("n0")
    for _ in range(3):
        world.trouble("n0", TroubleKind.EXIT, place)
        world.join("n0")
    assert any(isinstance(effect, Fail) for effect in world.others) is ends


def test_a_node_with_other_numerics_is_refused_by_name() -> None:
    world = World(count=2, least=1)
    world.arrive("a")
    world.arrive("old", fingerprint="older-cpu")
    assert [event.node for event in world.said if event.name is EventName.NOTE] == ["old"]
    assert world.members() == ()


def test_storage_that_is_away_opens_nothing_and_is_tried_again() -> None:
    world = World(count=1, least=1)
    world.log_works = False
    world.arrive("a")
    assert world.members() == ()
    world.log_works = True
    world.after(0.2)
    assert world.members() == ("a",)


def test_a_restarted_coordinator_learns_who_has_finished_and_ends_the_run() -> None:
    world = running()
    world.finish("n1", "n2")
    again = world.restarted()
    again.finish("n0")
    assert again.others == [Complete(1)]


def test_a_coordinator_that_died_before_the_end_was_written_is_told_by_all_that_they_have_finished() -> None:
    world = running()
    world.finish("n0", "n1", "n2")
    assert world.restarted().others == [Complete(1)]


def test_growth_goes_on_though_the_coordinator_that_ordered_it_is_gone() -> None:
    world = running(spares=1)
    for name in ("n0", "n1", "n2"):
        world.agents[name].phase = Phase.PARKED
    again = world.restarted(committed=world.agents["n0"].step)
    again.after(1.5)
    for name in ("n0", "n1", "n2"):
        again.join(name)
    assert again.number() == 2


def test_trainers_that_park_after_growth_was_given_up_do_not_stand_still_for_ever() -> None:
    world = running()
    step = world.agents["n0"].step
    world.carry_out(world.machine.phase(1, Phase.PARKED, step, world.now))
    assert world.members() == ("n0", "n1", "n2")
    world.carry_out(world.machine.committed(1, step, world.now))
    for name in ("n0", "n1", "n2"):
        world.join(name)
    assert (world.members(), world.number()) == (("n0", "n1", "n2"), 2)


def test_a_spare_with_other_numerics_makes_nobody_park() -> None:
    world = World(count=3, least=2)
    world.arrive("n0", "n1")
    world.after(31)
    world.arrive("old", fingerprint="older-cpu")
    world.after(30, steps_by=("n0", "n1"))
    assert EventName.STOP_ORDERED not in [event.name for event in world.said]
    assert (world.members(), world.number()) == (("n0", "n1"), 1)
