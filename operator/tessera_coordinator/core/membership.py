"""Membership and generations of one run: a state machine without I/O (design.md §2.1).

Owns who is in the run and which generation is open. Every method takes what happened and the time, and returns what
to do. What must stay true: a generation is open only once its entry stands in the log; its members never change; a
node acts for one incarnation at a time; and what is told to agents may be told twice (messages are level-based), so
that any of them may be lost.

    FORMING --OpenGeneration--> OPENING --opened--> OPEN --lost, rejoined, grown--> FORMING
       any --stop, complete, fail--> CLOSED
"""

from __future__ import annotations

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import EventName
from tessera_api.log import Open
from tessera_api.messages import Beat, Hello, Join, Phase
from tessera_api.orders import Reaped, Size
from tessera_api.trouble import Trouble, TroubleKind
from tessera_coordinator.core.effects import Announce, Close, Complete, Effect, GenerationOver, Resized
from tessera_coordinator.core.formation import Wanted, change, draft
from tessera_coordinator.core.hang import HangLimits, Hangs
from tessera_coordinator.core.judging import Judge
from tessera_coordinator.core.ladder import Ladder
from tessera_coordinator.core.nodes import Node, Roster
from tessera_coordinator.core.offers import answered, holds, stands
from tessera_coordinator.core.parking import Parking
from tessera_coordinator.core.seating import Seating
from tessera_coordinator.core.silence import Limits, Pace
from tessera_coordinator.core.state import State
from tessera_coordinator.core.watch import Situation, Watch
from tessera_coordinator.core.words import again, assign, farewell, over, redo


class Membership:
    """See the module."""

    def __init__(
        self, wanted: Wanted, limits: Limits, now: float, hang: HangLimits | None = None, ladder: Ladder | None = None
    ) -> None:
        self.wanted, self.limits = wanted, limits
        self.roster = Roster()
        self.state = State.FORMING
        self.seating: Seating | None = None
        """Of the newest generation, which is open only in state OPEN."""
        self.pace = Pace()
        self.best_step = -1
        self._since = now  # when the present state began
        self.judge = Judge(ladder or Ladder())
        self.parking = Parking()
        self._ending = False
        self.watch = Watch(self.roster, limits, now)
        self.hangs = Hangs(hang or HangLimits())
        self.closing: Close | None = None

    def adopt(self, generation: Open, committed: int, now: float) -> list[Effect]:
        """A restarted coordinator goes on with what stands open in the log, and with its newest commit."""
        self.seating, self.state, self._since = Seating(generation), State.OPEN, now
        self.hangs.begun(now)
        self.parking.generation_began(committed)
        self.roster.adopt(generation, self.limits.found_again_within, now)
        return [self._event(EventName.GENERATION_ADOPTED, f"waiting for {', '.join(generation.names())}")]

    @property
    def generation(self) -> Open | None:
        """The newest generation; open only in state OPEN."""
        return self.seating.opened if self.seating is not None else None

    # ---- what agents say ----------------------------------------------------------------------------------------

    def hello(self, hello: Hello, now: float) -> list[Effect]:
        """An agent opened a stream."""
        self._restart_clocks(self.watch.heard(now), now)
        if gone := self.judge.dismissed(hello.node):
            return gone
        node, effects = self.roster.get(hello.node), list[Effect]()
        if node is not None and node.incarnation != hello.incarnation:
            effects += self._lose({node.name: "another process took its name"}, now)
            node = None
        if node is None:
            node = self.roster.add(hello.node, hello.incarnation, hello, now)
            effects.append(self._event(EventName.NODE_SEEN, f"{hello.host}, {hello.processes} processes", hello.node))
        elif node.closed is not None and node.host:
            effects.append(self._event(EventName.NODE_RETURNED, "its stream is back", hello.node))
        node.spoke(hello, self.limits.return_within, now)
        if self.closing is not None:
            return [*effects, farewell(self.closing, node)]
        return effects + self._compare(node, hello, now)

    def _compare(self, node: Node, hello: Hello, now: float) -> list[Effect]:
        """What the agent holds against what stands open."""
        held = hello.holding
        if held is None:
            return []
        if self.seating is None or self.state is not State.OPEN or not holds(held, self.seating):
            return [again(node, held.generation, "a newer generation stands in the log")]
        if held.collective_error and node.collective_error is None:
            node.collective_error = now
        if held.finished:
            return self.finished(node.name, held.generation, now)
        return self.parking.orders(self.generation, (node.name,), now)  # told again on a new stream

    def beat(self, name: str, beat: Beat, now: float) -> list[Effect]:
        """A sign of life, with the node's progress."""
        node = self.roster.get(name)
        if node is None:
            return []
        self._restart_clocks(self.watch.heard(now), now)
        node.heard, node.facts, node.phase = now, beat.processes or node.facts, beat.phase
        if beat.generation == 0:
            return []
        if not self._is_open(beat.generation):
            return [again(node, beat.generation, "this generation is over")]
        node.told = now
        self.hangs.beat(name, beat, now)
        effects = []
        if beat.step >= 0:
            effects = self.stepped(beat.generation, beat.step, now - (beat.step_age or 0.0), now)
        if beat.phase is Phase.PARKED:
            self.parking.parked(beat.step)
            effects += self._after_parking(now)
        return effects

    def join(self, name: str, join: Join, now: float) -> list[Effect]:
        """A node without workers offers itself."""
        node = self.roster.get(name)
        if node is None:
            return []
        node.heard, node.facts = now, join.processes
        if self.closing is not None:
            return [farewell(self.closing, node)]
        if node.join is None or node.join.sequence != join.sequence:
            node.join = join
        if self.seating is not None and self.state is State.OPEN and self.member(name):
            if answered(node, join, self.seating.opened):
                return self._assign(node, self.seating, join, now)
            self.judge.quiet(name, now)
            return self._break(f"{name}: its workers ended", (name,), now) + self._form(now)
        return [] if self.roster.crowded else self._form(now)

    def _assign(self, node: Node, seating: Seating, join: Join, now: float) -> list[Effect]:
        node.join, node.assigned = None, join.sequence
        return [assign(node, seating, join), *self.parking.orders(seating.opened, (node.name,), now)]

    def stepped(self, generation: int, step: int, at: float, now: float) -> list[Effect]:
        """A member completed an optimizer step: every member was alive then."""
        if not self._is_open(generation):
            return []
        first = self.pace.completed(step, min(at, now))
        self.best_step = max(self.best_step, step)
        return [self._event(EventName.FIRST_STEP, f"step {step}", numbers={"step": float(step)})] if first else []

    def trouble(self, name: str, trouble: Trouble, now: float) -> list[Effect]:
        """A trainer failed. Its agent will join again; a collective error says that somebody else is gone."""
        node, held = self.roster.get(name), self.generation
        if node is None or held is None or held.generation != trouble.generation or self.state is State.CLOSED:
            return []
        node.heard = now
        self.judge.trouble(name, trouble, now)
        if trouble.what is not TroubleKind.COLLECTIVE:
            return [self._event(EventName.WORKER_FAILED, trouble.in_words(), name)]
        if self.state is not State.OPEN:
            return []
        known, node.collective_error = node.collective_error is not None, node.collective_error or now
        event = self._event(EventName.COLLECTIVE_ERROR, trouble.message, name)
        return ([] if known else [event]) + ([] if self.roster.crowded else self._look(now))

    def phase(self, generation: int, phase: Phase, step: int, now: float) -> list[Effect]:
        """Rank 0 declared a phase."""
        if not self._is_open(generation):
            return []
        if phase is Phase.PARKED:
            self.parking.parked(step)
        return [self._event(EventName.PHASE, f"{phase.value} at step {step}"), *self._after_parking(now)]

    def committed(self, generation: int, step: int, now: float) -> list[Effect]:
        """The log has a commit of this generation."""
        if self._is_open(generation):
            self.parking.committed(step)
        return self._after_parking(now)

    def _after_parking(self, now: float) -> list[Effect]:
        """Trainers that have parked never go on by themselves: their generation is over, whoever gave the order."""
        order = self.parking.order
        if not self.parking.obeyed() or self.state is not State.OPEN:
            return []
        if order is not None and order.stops_run:
            return [Close(f"stopped at step {self.parking.step}: {order.reason}", ExitCode.STOPPED)]
        return self._break(order.reason if order else "growth", (), now, planned=True) + self._form(now)

    def rewound(self, generation: int, why: str, now: float) -> list[Effect]:
        """The log says that training goes back: the open generation computes what no longer counts."""
        if self._is_open(generation):
            self.judge.rewound(why, now)
        return self._break(why, (), now) + self._form(now) if self._is_open(generation) else []

    def finished(self, name: str, generation: int, now: float) -> list[Effect]:
        """All trainers of the node ended with success."""
        node = self.roster.get(name)
        if node is None:
            return []
        node.heard = now
        if self.closing is not None:
            return [farewell(self.closing, node)]
        if not self._is_open(generation):
            return [redo(node, generation)]
        node.finished = generation
        done = all(member is not None and member.finished == generation for member in self._members())
        ends, self._ending = done and not self._ending, self._ending or done
        return [Complete(generation)] if ends else []

    def leave(self, name: str, reason: str, now: float) -> list[Effect]:
        """An agent ends its own node."""
        node = self.roster.get(name)
        if node is None or self.closing is not None:
            self.roster.drop(name)
            return []
        self.roster.drop(name)
        effects: list[Effect] = [self._event(EventName.NODE_LEFT, reason, name)]
        if self.member(name):
            self.judge.left(name, reason, now)
        if self.member(name) and self.state is State.OPEN:
            effects += self._break(f"{name} left: {reason}", (name,), now)
        return effects + self._form(now)

    def stream_closed(self, name: str, incarnation: str, now: float) -> list[Effect]:
        """The node's stream is gone; it may return."""
        node = self.roster.get(name)
        if node is not None and node.incarnation == incarnation and node.closed is None:
            node.closed = now
            return self._look(now) if node.reaped and not self.roster.crowded else []
        return []

    # ---- what supervisors and the clock say -----------------------------------------------------------------------

    def reaped(self, reaped: Reaped, now: float) -> list[Effect]:
        """A second source: the node's process has ended."""
        node = self.roster.get(reaped.node)
        if node is None or (node.facts is not None and node.facts.agent_pid != reaped.agent_pid):
            return []
        node.reaped = True
        return [] if self.roster.crowded else self._look(now)

    def stop_run(self, reason: str, deadline: float, now: float) -> list[Effect]:
        """A controller stops the run."""
        if self.closing is not None or self._ending or self.parking.stopping:
            return []
        self.parking.stop(reason, deadline, now)
        effects: list[Effect] = [self._event(EventName.STOP_ORDERED, f"{reason}; {deadline:.0f} s to commit")]
        if self.state is not State.OPEN:
            return [*effects, Close(f"stopped: {reason}", ExitCode.STOPPED)]
        return [*effects, *self.tell_all(now), *self._after_parking(now)]

    def tick(self, now: float) -> list[Effect]:
        """To be called at least every 0.25 s; a longer gap means that the coordinator was not awake."""
        if gap := self.watch.overslept(now):
            self._restart_clocks(gap, now)
            message = f"the coordinator itself was not awake for {gap:.1f} s; silence is counted anew"
            return [self._event(EventName.SELF_DOUBT, message, numbers={"seconds": gap})]
        if self.state is State.CLOSED or self._ending:
            return []
        return self._look(now) + self._hung(now) + self._change(now) + self._form(now) + self.parking.overdue(now)

    def _restart_clocks(self, gap: float, now: float) -> None:
        """The coordinator was asleep or deaf for `gap` seconds, which count for nothing."""
        if gap:
            self._since = now if self.state is State.OPEN else min(now, self._since + gap)
            self.pace.restart_clock(now)
            self.hangs.restart_clock(now)

    def _look(self, now: float) -> list[Effect]:
        """Is anybody lost?"""
        current = self.seating if self.state is State.OPEN else None
        effects = self.watch.doubts(now)
        effects += self._lose(self.watch.lost(Situation(current, self.pace, self._since), now), now)
        if self.state is State.OPEN and self.watch.broken_for_itself(self._members(), now):
            effects += self._break("collective error, and no node was found lost", (), now) + self._form(now)
        return effects

    def _hung(self, now: float) -> list[Effect]:
        """Does anybody compute?"""
        if self.state is not State.OPEN or self.generation is None:
            return []
        asked, hang = self.hangs.look(self.generation, self.roster, self.pace, now)
        if hang is None:
            return asked
        self.judge.hang(hang, now)
        return [self._event(EventName.HANG, hang.words, hang.node), *self._break(hang.words, (), now), *self._form(now)]

    def _lose(self, lost: dict[str, str], now: float) -> list[Effect]:
        effects: list[Effect] = []
        inside = tuple(name for name in lost if self.member(name) and self.state is State.OPEN)
        for name, why in lost.items():
            if self.member(name):
                self.judge.lost(self.roster.get(name), why)
            self.roster.drop(name)
            effects.append(self._event(EventName.NODE_LOST, why, name))
        if inside:
            effects += self._break("; ".join(f"{name}: {lost[name]}" for name in inside), inside, now)
        return effects + (self._form(now) if lost else [])

    # ---- generations -----------------------------------------------------------------------------------------------

    def _is_open(self, generation: int) -> bool:
        held = self.generation
        return held is not None and self.state is State.OPEN and held.generation == generation

    def member(self, name: str) -> bool:
        """Whether a node is one of the newest generation's."""
        return self.seating is not None and name in self.seating

    def _members(self) -> list[Node | None]:
        return [self.roster.get(name) for name in self.generation.names()] if self.generation else []

    def _break(self, cause: str, nodes: tuple[str, ...], now: float, planned: bool = False) -> list[Effect]:
        """The open generation is over; its members stop their workers and join again."""
        assert self.generation is not None
        number = self.generation.generation
        self.judge.ends(self.generation, self.pace.highest, planned)
        told = self._event(EventName.GENERATION_OVER, cause, numbers={"highest_step": float(self.pace.highest)})
        effects: list[Effect] = [told, GenerationOver(number, cause, nodes, planned)]
        effects += over(filter(None, self._members()), number, cause)
        self.state, self._since = State.FORMING, now
        if self.parking.order is not None and self.parking.stopping:
            reason = f"stopped: {self.parking.order.reason}; the last commit stands"
            return [*effects, Close(reason, ExitCode.STOPPED)]
        return effects

    def _form(self, now: float) -> list[Effect]:
        """Open the next generation if it can be made."""
        if self.state is not State.FORMING or self.parking.stopping or self._ending or self.closing is not None:
            return []
        nodes = self.judge.candidates(self.roster, now)
        plan = draft(nodes, self.generation, self.wanted, self.limits, now - self._since)
        effects: list[Effect] = [self._event(EventName.NOTE, why, n) for n, why in self.judge.news(plan.refused)]
        if plan.opening is None:
            return effects
        if ruled := self.judge.rule(self.roster, now):
            self._ending = self._ending or self.judge.ended
            return [*effects, *ruled, *self._form(now)]
        if now - self._since < self.judge.pause_s:
            return effects
        self.state = State.OPENING
        return [*effects, plan.opening]

    def opened(self, generation: Open, now: float) -> list[Effect]:
        """The entry stands in the log: the generation is open."""
        self.seating, self.state, self._since = Seating(generation), State.OPEN, now
        self.hangs.begun(now, after=self.pace)
        self.pace = Pace()
        self.parking.generation_began(generation.committed_step())
        self.judge.began(self.best_step)
        effects: list[Effect] = [self._event(EventName.GENERATION_OPENED, generation.in_words())]
        missing = tuple(m.node for m in generation.members if not stands(self.roster.get(m.node), m, generation))
        if missing or self.parking.stopping:
            return effects + self._break("lost while the generation was opened", missing, now) + self._form(now)
        for node in filter(None, self._members()):
            if node.join is not None:
                node.collective_error, node.finished = None, 0
                effects += self._assign(node, self.seating, node.join, now)
        return effects

    def not_opened(self) -> None:
        """Storage did not take the entry; the next tick tries again with whoever is there then."""
        self.state = State.FORMING if self.state is State.OPENING else self.state

    def _change(self, now: float) -> list[Effect]:
        """The generation ought to have other nodes: ask the trainers to park, after a cool-down."""
        if self.state is not State.OPEN or self.generation is None or self.parking.order is not None:
            return []
        cool = self.pace.first_at is not None and now - self.pace.first_at >= self.limits.grow_cooldown
        if not cool or not (words := change(self.roster.all(), self.generation, self.wanted)):
            return []
        self.parking.change(words, self.limits.grow_deadline, now)
        return [self._event(EventName.STOP_ORDERED, f"{words}; all park and commit first"), *self.tell_all(now)]

    def tell_all(self, now: float) -> list[Effect]:
        """The order in force, to all members."""
        return self.parking.orders(self.generation, [node.name for node in self._members() if node], now)

    def resize(self, size: Size, now: float) -> list[Effect]:
        """A controller wants another number of nodes."""
        if (wanted := self.wanted.resized(size)) == self.wanted:
            return []
        self.wanted = wanted
        return [self._event(EventName.NOTE, wanted.words()), Resized(size.count, size.min), *self._form(now)]

    def close(self, reason: str, exit_code: ExitCode) -> list[Effect]:
        """It is over: everybody is told, now and whenever they ask."""
        if self.closing is not None:
            return []
        self.closing, self.state = Close(reason, exit_code), State.CLOSED
        effects: list[Effect] = [self._event(EventName.ENDED, reason)]
        return effects + [farewell(self.closing, node) for node in self.roster.all()]

    def _event(
        self, name: EventName, message: str, node: str | None = None, numbers: dict[str, float] | None = None
    ) -> Announce:
        number = self.generation.generation if self.generation else 0
        return Announce(name, message, node, number, numbers or {})
