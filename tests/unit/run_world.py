"""A run as the membership machine sees it: agents that beat, a clock that the test moves, a log that takes all."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera_api.inspection import Inspect, Prove
from tessera_api.journal import EventName
from tessera_api.log import Open
from tessera_api.messages import Assign, Beat, Hello, Holding, Join, Phase, Processes, Restart, Role
from tessera_api.orders import Reaped
from tessera_api.trouble import Trouble, TroubleKind
from tessera_coordinator.core.effects import Announce, Close, Effect, OpenGeneration, Send
from tessera_coordinator.core.formation import Wanted
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.seating import Seating
from tessera_coordinator.core.silence import Limits
from tessera_coordinator.core.state import State


@dataclass
class Agent:
    """An agent as the coordinator sees it."""

    name: str
    incarnation: str = "i1"
    joins: int = 0
    pid: int = 100
    held: Open | None = None
    beats: bool = True
    step: int = -1
    stepped: float = 0.0
    phase: Phase = Phase.TRAIN
    finished: bool = False
    units: int = 0
    born: float | None = None
    """When it began, by the world's clock; None: when it is first heard."""
    welcomed: float | None = None
    """When a coordinator first welcomed it."""
    workers: tuple[int, ...] = ()
    """Pids of trainers that have connected."""
    inbox: list[object] = field(default_factory=list)


class World:
    """A run with its agents, a clock that only `after` moves, and a log that takes every entry at once unless told
    otherwise."""

    def __init__(self, count: int = 3, least: int = 2, adopt: Open | None = None, committed: int = -1) -> None:
        self.now = 100.0
        self.machine = Membership(Wanted(count, least), Limits(), self.now)
        self.agents: dict[str, Agent] = {}
        self.said: list[Announce] = []
        self.others: list[Effect] = []
        self.term = 1
        self.log_works = True
        self.reads = True
        self.proves = True
        """Agents that are to prove themselves do so at once."""
        if adopt is not None:
            self.carry_out(self.machine.adopt(adopt, committed, self.now))

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(node, message):
                    if node in self.agents:
                        self.receive(self.agents[node], message)
                case Announce():
                    self.said.append(effect)
                case OpenGeneration() if self.log_works:
                    self.carry_out(self.machine.opened(self.entry(effect), self.now))
                case OpenGeneration():
                    self.machine.not_opened()
                case Close(reason, code):
                    self.others.append(effect)
                    self.carry_out(self.machine.close(reason, code))
                case _:
                    self.others.append(effect)

    def entry(self, wanted: OpenGeneration) -> Open:
        return Open(
            term=self.term,
            generation=wanted.generation,
            members=wanted.members,
            store=wanted.store,
            nonce="aa",
            fingerprint=wanted.fingerprint or None,
            time=self.now,
        )

    def receive(self, agent: Agent, message: object) -> None:
        agent.inbox.append(message)
        if isinstance(message, Assign):
            assert self.machine.generation is not None
            assert message.seat == Seating(self.machine.generation).seat(agent.name)
            agent.held, agent.step = self.machine.generation, -1
            agent.phase, agent.finished = Phase.TRAIN, False
        elif isinstance(message, Inspect) and agent.beats:
            self.beat(agent.name)
        elif isinstance(message, Prove) and self.proves:
            self.join(agent.name)

    def arrive(self, *names: str, fingerprint: str = "cpu") -> None:
        for name in names:
            self.agents.setdefault(name, Agent(name, pid=100 + len(self.agents)))
            self.hello(name)
            self.join(name, fingerprint)

    def hello(self, name: str) -> None:
        agent, held = self.agents[name], self.agents[name].held
        holding = None
        if held is not None:
            digest = held.short_hash()
            holding = Holding(term=held.term, generation=held.generation, digest=digest, finished=agent.finished)
        lived = self.now - agent.born if agent.born is not None else 0.0
        known = self.now - agent.welcomed if agent.welcomed is not None else 0.0
        agent.welcomed = self.now - known
        me = {"node": name, "incarnation": agent.incarnation, "lived": lived, "known": known}
        hello = Hello.model_validate({"role": Role.AGENT, "holding": holding, **me})
        self.carry_out(self.machine.hello(hello, self.now))

    def join(self, name: str, fingerprint: str = "cpu") -> None:
        agent = self.agents[name]
        agent.joins, agent.held = agent.joins + 1, None
        facts = Processes(agent_pid=agent.pid)
        offer = Join(sequence=agent.joins, store_port=5000 + agent.pid, fingerprint=fingerprint, processes=facts)
        self.carry_out(self.machine.join(name, offer, self.now))

    def beat(self, name: str) -> None:
        agent = self.agents[name]
        age = self.now - agent.stepped if agent.step >= 0 else None
        generation = agent.held.generation if agent.held else 0
        facts = Processes(agent_pid=agent.pid, worker_pids=agent.workers)
        beat = Beat(
            generation=generation,
            step=agent.step,
            step_age=age,
            units=agent.units,
            phase=agent.phase,
            processes=facts,
        )
        self.carry_out(self.machine.beat(name, beat, self.now))

    def step(self, *names: str) -> None:
        """These nodes complete their next step now; the coordinator learns it with the next beat."""
        for name in names:
            self.agents[name].step += 1
            self.agents[name].stepped = self.now

    def after(self, seconds: float, steps_by: tuple[str, ...] = (), step_seconds: float = 0.5) -> None:
        """Time passes in ticks of 0.1 s; agents that beat do so each second; `steps_by` complete steps."""
        for _ in range(round(seconds * 10)):
            self.now = round(self.now + 0.1, 3)
            beat_now = round(self.now * 10) % 10 == 0
            if steps_by and round(self.now * 10) % round(step_seconds * 10) == 0:
                self.step(*steps_by)
            for agent in self.agents.values():
                if self.reads and agent.beats and beat_now:
                    self.beat(agent.name)
            if self.reads:
                self.carry_out(self.machine.tick(self.now))

    def close_stream(self, name: str) -> None:
        self.agents[name].beats = False
        self.carry_out(self.machine.stream_closed(name, self.agents[name].incarnation, self.now))

    def reap(self, name: str) -> None:
        self.carry_out(self.machine.reaped(Reaped(node=name, agent_pid=self.agents[name].pid, code=-9), self.now))

    def trouble(self, name: str, what: TroubleKind = TroubleKind.COLLECTIVE, place: str = "") -> None:
        held = self.agents[name].held
        generation = held.generation if held else 0
        trouble = Trouble(generation=max(1, generation), what=what, rank=0, place=place, message="broken")
        self.carry_out(self.machine.trouble(name, trouble, self.now))

    def finish(self, *names: str) -> None:
        """All trainers of these nodes end with success."""
        for name in names:
            agent = self.agents[name]
            agent.finished = True
            assert agent.held is not None
            self.carry_out(self.machine.finished(name, agent.held.generation, self.now))

    def restarted(self, committed: int = -1) -> World:
        """Another coordinator goes on with what stands open in the log; the agents find it."""
        again = World(adopt=self.machine.generation, committed=committed)
        again.agents = self.agents
        for agent in again.agents.values():
            agent.born = agent.welcomed = None  # by the other world's clock
        again.after(0.5)
        for name in again.agents:
            again.hello(name)
        return again

    def members(self) -> tuple[str, ...]:
        generation = self.machine.generation
        return generation.names() if generation and self.machine.state is State.OPEN else ()

    def number(self) -> int:
        return self.machine.generation.generation if self.machine.generation else 0

    def told_to_restart(self) -> set[str]:
        return {name for name, agent in self.agents.items() if any(isinstance(m, Restart) for m in agent.inbox)}

    def lost(self) -> list[str | None]:
        return [event.node for event in self.said if event.name is EventName.NODE_LOST]


def running(count: int = 3, least: int = 2, spares: int = 0) -> World:
    """A run whose first generation has made ten steps of half a second."""
    world = World(count, least)
    names = tuple(f"n{i}" for i in range(count))
    world.arrive(*names)
    world.after(6, steps_by=names)
    world.arrive(*(f"s{i}" for i in range(spares)))
    world.after(1, steps_by=names)
    for agent in world.agents.values():
        agent.inbox.clear()
    world.said.clear()
    return world
