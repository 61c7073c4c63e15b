"""Every second of every node is counted once: through losses, returns, growth and other coordinators."""

from __future__ import annotations

import random

import pytest

from tessera_api.log import Open
from tessera_api.messages import Phase
from tessera_coordinator.accounts import Accounts, Past
from tessera_coordinator.core.effects import GenerationOver
from tessera_coordinator.core.incidents import Incidents
from tessera_coordinator.core.ledger import Activity, Cause, Ledger
from tessera_coordinator.core.nodes import Node
from tessera_coordinator.core.presence import Presence
from tests.unit.run_world import Agent, World

TOLERANCE = 0.1
"""Seconds a node, which is what was promised; what is found is rounding."""


def node(name: str, lived: float = 0.0, known: float = 0.0) -> Node:
    return Node(name, "i1", "host", 1, 1, 100.0, lived=lived, known=known)


def spare(name: str) -> Activity:
    return Activity.SPARE


def test_a_node_is_counted_from_when_it_came_and_for_as_long_as_it_had_lived() -> None:
    presence = Presence(100.0)

    assert presence.came(node("a", lived=7.0), 101.5) == (7.0, False)
    assert presence.passed(102.0, [(1, Activity.SPARE)], spare) == {Activity.SPARE: pytest.approx(0.5)}
    assert presence.passed(103.0, [(1, Activity.SPARE)], spare) == {Activity.SPARE: pytest.approx(1.0)}
    assert presence.gone(node("a"), 103.25) == pytest.approx(0.25)
    assert presence.passed(104.0, [], spare) == {}


def test_one_that_was_given_up_and_comes_back_was_the_runs_meanwhile() -> None:
    presence = Presence(100.0)
    presence.came(node("a"), 100.0)
    presence.gone(node("a"), 110.0)

    assert presence.came(node("a", lived=20.0, known=20.0), 120.0) == (10.0, True)
    assert presence.came(node("b", lived=3.0), 120.0) == (3.0, False)


def test_a_coordinator_that_takes_over_counts_what_its_predecessor_could_not() -> None:
    presence = Presence(100.0, away=8.0)

    assert presence.came(node("old", lived=500.0, known=450.0), 101.0) == (9.0, True)
    assert presence.came(node("late", lived=60.0, known=5.0), 101.0) == (60.0, False), "the last line was before it"
    assert presence.came(node("new", lived=60.0), 101.0) == (60.0, False)


def test_a_clock_that_stands_still_counts_nothing_twice() -> None:
    presence = Presence(100.0)
    presence.came(node("a"), 100.0)

    told = [dict(presence.passed(now, [(1, Activity.IDLE)], spare)) for now in (101.0, 101.0, 100.5, 102.0)]

    assert [seconds.get(Activity.IDLE, 0.0) for seconds in told] == [1.0, 0.0, 0.0, 1.0]


class Counted:
    """A run whose accounts are kept as the coordinator keeps them, and a tally of its nodes that is not."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.world = World(count=4, least=2)
        self.ledger = Ledger()
        self.accounts = self._kept(Past(0.0))
        self.allocated = 0.0
        self._names = iter(f"n{number}" for number in range(10_000))
        self._seen = 0
        self._published = dict.fromkeys(self.ledger.seconds(), 0.0)

    def _kept(self, past: Past) -> Accounts:
        accounts = Accounts(Incidents(), self.ledger, past, clock=lambda: self.world.now)
        accounts.attend(self.world.machine)
        return accounts

    def arrive(self) -> None:
        """A node that has taken some time to start."""
        name, lived = next(self._names), self.chance.uniform(0, 30)
        self.world.agents[name] = Agent(name, pid=100 + len(self.world.agents), born=self.world.now - lived)
        self.allocated += lived
        self.world.arrive(name)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            there = list(self.world.machine.roster.all())
            self.world.after(0.1, steps_by=self.world.members())
            still = {node.name for node in self.world.machine.roster.all()}
            # Who is found lost is let go at the end of the tick in which that is found.
            self.allocated += 0.1 * len(there)
            assert still <= {node.name for node in there}
            for name in sorted(still):
                node = self.world.machine.roster.get(name)
                idle = self.world.agents[name].beats and self.world.agents[name].held is None
                if idle and node is not None and node.join is None:
                    self.world.join(name)
            self.settle()
            if self.chance.random() < 0.3:
                self.accounts.advance(self.world.machine)

    def settle(self) -> None:
        for effect in self.world.others[self._seen :]:
            if isinstance(effect, GenerationOver):
                for name in self.world.agents:
                    if self.world.agents[name].beats:
                        self.world.agents[name].held = None
                self.accounts.over()
                self.ledger.began(self.chance.randrange(3))
        self._seen = len(self.world.others)

    def lose(self) -> None:
        nodes = [node.name for node in self.world.machine.roster.all() if node.closed is None]
        if nodes:
            name = self.chance.choice(nodes)
            self.world.reap(name)
            self.world.close_stream(name)

    def commit(self) -> None:
        self.accounts.advance(self.world.machine)
        self.ledger.stepped(1)
        self.ledger.committed(self.chance.choice((1, 2)))

    def another_coordinator(self) -> None:
        """The old one wrote its last line, and died; the nodes go on without one for some time."""
        generation = self.world.machine.generation
        self.accounts.advance(self.world.machine)
        if generation is None or not self.world.members():
            return
        line, away = self.accounts.final_ledger(0.0), self.chance.uniform(0, 20)
        members, others = self._split(generation)
        before, agents = self.world.now, self.world.agents
        self.ledger = Ledger(line.seconds, line.uncommitted)
        self.world, self._seen = World(count=4, least=2), 0
        self.accounts = self._kept(Past(0.0, away=away))
        self.world.agents = {name: agents[name] for name in (*members, *others)}
        for agent in self.world.agents.values():
            assert agent.born is not None
            assert agent.welcomed is not None
            agent.born += self.world.now - before - away
            agent.welcomed += self.world.now - before - away
        self.allocated += away * len(self.world.agents)
        self.world.carry_out(self.world.machine.adopt(generation, -1, self.world.now))
        self.accounts.adopted(generation)
        for name in self.world.agents:
            self.world.hello(name)
        for name in others:
            self.world.join(name)

    def _split(self, generation: Open) -> tuple[list[str], list[str]]:
        there = {node.name for node in self.world.machine.roster.all()}
        members = [name for name in generation.names() if name in there]
        return members, sorted(there - set(members))

    def act(self) -> None:
        """Something happens, and some seconds pass."""
        self.chance.choice((self.lose, self.arrive, self.commit, self.another_coordinator, lambda: None))()
        self.pass_time(self.chance.uniform(0.1, 6))
        self.accounts.advance(self.world.machine)

    def check(self) -> None:
        settled = self.ledger.seconds()
        nodes = len(self.world.agents)
        assert self.ledger.total == pytest.approx(self.allocated, abs=TOLERANCE * nodes)
        assert all(value >= 0 for value in settled.values())
        assert self.ledger.uncommitted >= 0
        assert all(settled[cause] >= self._published[cause] - 0.01 for cause in settled), "no counter falls"
        self._published = settled


@pytest.mark.parametrize("seed", range(100))
def test_whatever_happens_the_sum_of_all_causes_is_the_time_that_nodes_were_there(seed: int) -> None:
    run = Counted(random.Random(seed))
    for _ in range(4):
        run.arrive()
    for _ in range(25):
        run.act()
        run.check()

    assert run.ledger.seconds()[Cause.START_UP] > 0
    assert Phase.PARKED not in {agent.phase for agent in run.world.agents.values()}
