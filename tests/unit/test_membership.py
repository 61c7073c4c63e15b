"""Membership as stories: nodes beat, fall silent, die, return; and a coordinator that doubts itself first."""

from __future__ import annotations

import pytest

from tessera_api.journal import EventName
from tessera_api.messages import (
    Assign,
    Beat,
    Hello,
    Join,
    Processes,
    Restart,
    Role,
)
from tessera_coordinator.core.effects import OpenGeneration
from tests.unit.run_world import Agent, World, running


def test_the_first_generation_waits_for_all_nodes_and_keeps_their_order_of_arrival() -> None:
    world = World(count=3)
    world.arrive("b", "a")
    assert world.members() == ()
    world.arrive("c")
    assert world.members() == ("b", "a", "c")


def test_the_first_generation_makes_do_with_min_nodes_after_its_patience() -> None:
    world = World(count=3, least=2)
    world.arrive("a", "b")
    world.after(29)
    assert world.members() == ()
    world.after(2)
    assert world.members() == ("a", "b")


def test_a_closed_stream_alone_loses_nobody_while_steps_go_on() -> None:
    world = running()
    world.close_stream("n1")
    world.after(20, steps_by=("n0", "n1", "n2"))
    assert (world.number(), world.lost(), world.told_to_restart()) == (1, [], set())


def test_a_closed_stream_and_a_reaped_process_are_a_lost_node_at_once() -> None:
    world = running(spares=1)
    world.reap("n1")
    world.close_stream("n1")
    world.after(0.4)
    assert world.lost() == ["n1"]
    assert world.told_to_restart() == {"n0", "n2"}


def test_a_closed_stream_and_a_peers_collective_error_are_a_lost_node_in_half_a_second() -> None:
    world = running()
    world.close_stream("n0")
    world.trouble("n2")
    world.after(0.2)
    assert world.lost() == []
    world.after(0.3)
    assert world.lost() == ["n0"]


def test_a_stream_that_returns_in_time_loses_nobody_though_a_peer_complained() -> None:
    world = running()
    world.trouble("n2")
    world.close_stream("n0")
    world.after(0.2)
    world.agents["n0"].beats = True
    world.hello("n0")
    world.after(1.0)
    assert world.lost() == []


def test_a_beat_that_says_nothing_new_of_its_processes_leaves_them_as_they_were() -> None:
    world = running()
    known = world.machine.roster.get("n0")
    assert known is not None
    facts = known.facts
    world.carry_out(world.machine.beat("n0", Beat(generation=1), world.now))
    assert (known.facts, known.facts is None) == (facts, False)


def test_a_silent_node_is_lost_after_three_beats_without_a_step() -> None:
    world = running()
    world.agents["n1"].beats = False
    world.after(2.5)
    assert world.lost() == []
    world.after(1.2)
    assert world.lost() == ["n1"]


def test_a_silent_node_whose_steps_go_on_is_not_lost() -> None:
    world = running()
    world.agents["n1"].beats = False
    world.after(30, steps_by=("n0", "n2"))
    assert world.lost() == []


def test_a_spare_takes_the_place_of_a_lost_node_and_ranks_stay() -> None:
    world = running(spares=1)
    world.reap("n1")
    world.close_stream("n1")
    world.after(0.4)
    world.join("n0")
    world.join("n2")
    assert (world.members(), world.number()) == (("n0", "n2", "s0"), 2)


def test_without_a_spare_the_run_shrinks_when_min_allows() -> None:
    world = running(least=2)
    world.reap("n0")
    world.close_stream("n0")
    world.after(0.4)
    world.join("n2")
    world.join("n1")
    assert world.members() == ("n1", "n2")


def test_without_a_spare_and_at_min_the_run_waits_for_a_new_node() -> None:
    world = running(least=3)
    world.reap("n0")
    world.close_stream("n0")
    world.after(0.4)
    world.join("n1")
    world.join("n2")
    world.after(20)
    assert world.members() == ()
    world.arrive("new")
    assert world.members() == ("n1", "n2", "new")


def test_a_node_that_cannot_stop_its_worker_is_left_out_after_five_seconds() -> None:
    world = running(spares=1)
    world.reap("n1")
    world.close_stream("n1")
    world.after(0.4)
    world.join("n0")
    world.after(4.5)
    assert world.members() == ()
    world.after(1.0)
    assert world.members() == ("n0", "s0")
    world.join("n2")
    assert world.members() == ("n0", "s0")


def test_a_worker_that_ends_restarts_the_generation_and_no_node_is_lost() -> None:
    world = running()
    world.join("n1")
    assert world.told_to_restart() == {"n0", "n2"}
    world.join("n0")
    world.join("n2")
    assert (world.members(), world.number(), world.lost()) == (("n0", "n1", "n2"), 2, [])


def test_a_coordinator_that_was_paused_counts_no_silence() -> None:
    """The sketch was paused for 5 s and declared all nodes lost."""
    world = running()
    world.reads = False
    world.after(10)
    world.reads = True
    world.after(2.5, steps_by=("n0", "n1", "n2"))
    assert (world.number(), world.lost()) == (1, [])
    assert EventName.SELF_DOUBT in [event.name for event in world.said]


def test_all_nodes_silent_at_once_is_presumed_to_be_our_own_fault() -> None:
    """4.5 s of dropped packets on the coordinator's port cost the sketch 83 good steps."""
    world = running(spares=1)
    for agent in world.agents.values():
        agent.beats = False
    world.after(8)
    for agent in world.agents.values():
        agent.beats = True
        agent.stepped, agent.step = world.now, agent.step + 16
    world.after(3, steps_by=("n0", "n1", "n2"))
    assert (world.number(), world.lost()) == (1, [])


def test_the_first_one_heard_again_does_not_condemn_the_others() -> None:
    world = running()
    for agent in world.agents.values():
        agent.beats = False
    world.after(8)
    world.hello("n0")
    world.after(0.5)
    assert world.lost() == []


@pytest.mark.parametrize("seconds", [2.0, 2.6, 3.2, 5.0])
def test_nodes_that_are_heard_again_one_after_the_other_are_all_kept(seconds: float) -> None:
    """What was sent meanwhile is sent again at other instants for each of them."""
    world = running(spares=1)
    for agent in world.agents.values():
        agent.beats = False
    world.after(seconds)
    for name in ("n2", "s0", "n1", "n0"):
        world.agents[name].beats = True
        world.beat(name)
        world.after(0.7)
    assert (world.number(), world.lost()) == (1, [])


@pytest.mark.parametrize("step_seconds", [0.1, 0.5])
def test_after_a_cut_in_which_the_old_streams_ended_too_the_first_to_return_condemns_nobody(
    step_seconds: float,
) -> None:
    """Seen on a real network: what closed the streams arrives when the way is free again, before the nodes do; and the
    node of rank 0, which alone reports each step, is not the first."""
    world = running(spares=1)
    names = ("n0", "n1", "n2")
    world.after(5, names, step_seconds)
    for agent in world.agents.values():
        agent.beats = False
    world.after(28, names, step_seconds)
    for name in (*names, "s0"):
        world.close_stream(name)
    world.after(0.7, names, step_seconds)
    for name in ("n1", "s0", "n2", "n0"):
        world.agents[name].beats = True
        world.hello(name)
        world.beat(name)
        world.after(0.5, names, step_seconds)
    world.after(3, names, step_seconds)
    assert (world.number(), world.lost()) == (1, [])


def test_seconds_in_which_the_coordinator_slept_do_not_count_as_patience_of_the_first_generation() -> None:
    world = World(count=3, least=2)
    world.arrive("n0", "n1")
    world.after(20)
    world.reads = False
    world.after(60)
    world.reads = True
    world.after(9.5)
    assert world.number() == 0
    world.after(1)
    assert world.number() == 1


def test_a_stream_that_closed_during_our_own_deafness_condemns_nobody_before_steps_are_heard_of() -> None:
    world = running()
    for agent in world.agents.values():
        agent.beats = False
    world.after(6)
    world.hello("n0")
    world.close_stream("n1")
    world.after(0.8)
    assert world.lost() == []


def test_two_of_three_silent_at_once_are_lost_when_the_third_says_that_steps_stopped() -> None:
    world = running(least=1)
    world.agents["n1"].beats = world.agents["n2"].beats = False
    world.after(4.5)
    assert sorted(map(str, world.lost())) == ["n1", "n2"]


def test_a_spare_that_is_lost_disturbs_nobody() -> None:
    world = running(spares=1)
    world.close_stream("s0")
    world.after(1, steps_by=("n0", "n1", "n2"))
    assert (world.lost(), world.told_to_restart(), world.number()) == (["s0"], set(), 1)


def test_a_node_that_was_stopped_and_goes_on_later_is_told_to_start_anew() -> None:
    world = running(spares=1)
    world.agents["n1"].beats = False
    world.after(4)
    for name in ("n0", "n2"):
        world.join(name)
    assert world.members() == ("n0", "n2", "s0")
    world.hello("n1")
    world.beat("n1")
    assert [type(m) for m in world.agents["n1"].inbox] == [Restart, Restart]
    world.join("n1")
    assert world.members() == ("n0", "n2", "s0")


def test_a_restarted_coordinator_goes_on_with_the_generation_that_runs() -> None:
    world = running()
    again = World(adopt=world.machine.generation)
    again.agents = world.agents
    again.after(0.5)
    for name in ("n0", "n1", "n2"):
        again.hello(name)
    again.after(10, steps_by=("n0", "n1", "n2"))
    assert (again.number(), again.lost(), again.told_to_restart()) == (1, [], set())


def test_a_restarted_coordinator_misses_a_node_that_died_meanwhile() -> None:
    world = running()
    again = World(adopt=world.machine.generation)
    again.agents = {name: world.agents[name] for name in ("n0", "n2")}
    again.after(0.3)
    again.hello("n0")
    again.hello("n2")
    again.trouble("n0")
    again.after(2)
    assert again.lost() == ["n1"]
    again.join("n0")
    again.join("n2")
    assert (again.members(), again.number()) == (("n0", "n2"), 2)


def test_an_assignment_that_got_lost_is_given_again() -> None:
    world = World(count=2)
    world.arrive("a", "b")
    agent = world.agents["a"]
    agent.inbox.clear()
    world.close_stream("a")
    agent.beats = True
    world.hello("a")
    agent.joins -= 1
    world.join("a")
    assert [type(message) for message in agent.inbox] == [Assign]
    assert world.number() == 1


def test_a_node_lost_while_the_entry_is_written_opens_no_half_generation() -> None:
    world = World(count=2, least=1)
    world.log_works = False
    world.arrive("a")
    plan = world.machine.join("b", Join(sequence=1, store_port=1, processes=Processes(agent_pid=1)), world.now)
    assert plan == []
    world.agents["b"] = Agent("b", pid=200)
    hello = Hello(role=Role.AGENT, node="b", incarnation="i1")
    world.machine.hello(hello, world.now)
    facts = Processes(agent_pid=200)
    effects = world.machine.join("b", Join(sequence=1, store_port=1, fingerprint="cpu", processes=facts), world.now)
    opening = next(effect for effect in effects if isinstance(effect, OpenGeneration))
    world.close_stream("b")
    world.now += 1.0
    world.log_works = True
    world.reap("b")
    world.carry_out(world.machine.opened(world.entry(opening), world.now))
    assert not any(isinstance(message, Assign) and message.seat.nodes == 2 for message in world.agents["a"].inbox)
    world.after(1)
    assert world.members() == ("a",)
