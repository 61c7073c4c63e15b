"""The coordinator of one run: takes messages, asks the state machines, carries out what they say.

Owns the machines and everything that they touch (log, records, accounts). Runs on one event loop; only the log's
writes and the checkpoints' deletion leave it. Nothing here decides: decisions are in `core`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never

from tessera_api.drill import Drill
from tessera_api.exit_codes import ExitCode
from tessera_api.journal import Event, EventName, SizeLine
from tessera_api.log import Claim, Commit, End, Open, Retire
from tessera_api.messages import (
    Committed,
    Finished,
    FromCoordinator,
    Leave,
    Note,
    Part,
    PhaseChange,
    Report,
    RewindRequest,
    SkipRequest,
    StatusAnswer,
    Steps,
)
from tessera_api.orders import Places, Size, Warnings
from tessera_api.trouble import Trouble
from tessera_coordinator.accounts import Accounts
from tessera_coordinator.checkpoints import Checkpoints, Fate, Outcomes
from tessera_coordinator.core.commits import PartRefused, ReadyCommit
from tessera_coordinator.core.effects import (
    Announce,
    Close,
    Complete,
    Effect,
    Fail,
    GenerationOver,
    Judged,
    OpenGeneration,
    Resized,
    Send,
)
from tessera_coordinator.core.history import History
from tessera_coordinator.core.kept import resume_point
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.notice import noticed, warned
from tessera_coordinator.core.state import State
from tessera_coordinator.core.stragglers import Stragglers
from tessera_coordinator.corrections import Corrections, Wish
from tessera_coordinator.hurting import Means, carry_out
from tessera_coordinator.records import Records
from tessera_coordinator.run_log import Ruled
from tessera_coordinator.scribe import Job, Scribe
from tessera_coordinator.step_lines import step_line

logger = logging.getLogger(__name__)

_EVENTS_OF_TRAINERS = {name.value: name for name in (EventName.STORAGE_TROUBLE, EventName.STORAGE_BACK)}
"""Notes of trainers that are events of their own."""


@dataclass(frozen=True)
class Terms:
    """What the coordinator must know of the run."""

    run: str
    total_steps: int
    keep: int
    start: int
    """How many times the run has been started; a restarted coordinator belongs to the same start."""
    replaces_stragglers: bool = False


class Coordinator:
    """See the module. `deliver` hands a message to a node's stream, if it has one."""

    def __init__(
        self,
        terms: Terms,
        membership: Membership,
        scribe: Scribe,
        records: Records,
        accounts: Accounts,
    ) -> None:
        self.terms, self.membership, self.scribe = terms, membership, scribe
        self.records, self.accounts = records, accounts
        self.term = 0
        self.deliver: Callable[[str, FromCoordinator], None] = lambda node, message: None
        self.collect: Callable[[History], None] = lambda history: None
        """Asks for the deletion of what the log has given up."""
        self.ended = asyncio.Event()
        self._commit_seconds = 0.0
        """What the last commit took, from its step on."""
        scribe.on_trouble = self.storage
        accounts.record = records.add
        accounts.attend(membership)
        outcomes = Outcomes(self._committed, self._retired)
        self.checkpoints = Checkpoints(scribe, terms.keep, lambda: self.term, outcomes)
        accounts.stragglers = Stragglers(terms.replaces_stragglers)
        self.corrections = Corrections(scribe, lambda: self.term, self._corrected)
        self._attempted = 0

    # ---- beginning ----------------------------------------------------------------------------------------------

    def begin(self, claim: Claim, adopt: bool) -> None:
        """The term is claimed. With `adopt`, the generation that stands open goes on."""
        self.term = claim.term
        history = self.scribe.history
        self._event(EventName.COORDINATOR_STARTED, f"term {claim.term}, start {self.terms.start}")
        if adopt and history.open is not None:
            committed = history.newest.step if history.newest else -1
            self.checkpoints.opened(history.open, committed)
            self.apply(self.membership.adopt(history.open, committed, time.monotonic()))
            self.accounts.adopted(history.open)
        self.collect(history)

    # ---- effects --------------------------------------------------------------------------------------------------

    def apply(self, effects: list[Effect]) -> None:  # noqa: C901 - one branch an effect
        """Carry out what the machine asked for, in order."""
        for effect in effects:
            match effect:
                case Send(node, message):
                    self.deliver(node, message)
                case Announce(name, message, node, generation, numbers):
                    self._event(name, message, node, generation, numbers)
                case OpenGeneration():
                    self._open(effect)
                case GenerationOver():
                    self._over(effect)
                case Judged():
                    self.accounts.judged(effect)
                case Resized(count, least):
                    start = self.terms.start
                    self.records.add(SizeLine(time=time.time(), start=start, count=count, min=least))
                case Complete():
                    self._end(self._complete)
                case Fail(message):
                    self._fail(message)
                case Close(reason, exit_code):
                    self.apply(self.membership.close(reason, exit_code))
                    self.accounts.closed(exit_code, reason)
                    self.ended.set()
                case _:
                    assert_never(effect)

    def _event(
        self,
        name: EventName,
        message: str,
        node: str | None = None,
        generation: int = 0,
        numbers: dict[str, float] | None = None,
    ) -> None:
        event = Event(
            time=time.time(),
            name=name,
            generation=generation,
            term=self.term,
            node=node,
            message=message[:2000],
            numbers=numbers or {},
        )
        logger.info("%s %s %s", name.value, node or "", message)
        self.records.add(event)
        self.accounts.event(event)

    def _open(self, wanted: OpenGeneration) -> None:
        nonce = secrets.token_hex(4)
        # An attempt whose outcome storage left in doubt may stand in the log after all: its number is not used again.
        self._attempted = number = max(wanted.generation, self._attempted + 1)

        def make(history: History) -> Ruled:
            return Open(
                term=self.term,
                generation=max(number, history.generation + 1),
                start=self.terms.start,
                members=wanted.members,
                store=wanted.store,
                nonce=nonce,
                resume=resume_point(history, wanted.held),
                skips=history.left_out(),
                rewinds=history.went_back(),
                fingerprint=wanted.fingerprint or None,
                reason=wanted.reason,
                time=time.time(),
            )

        def done(entry: Ruled | None) -> None:
            if not isinstance(entry, Open):
                return self.membership.not_opened()
            newest = self.scribe.history.newest
            self.checkpoints.opened(entry, newest.step if newest else -1)
            self.accounts.opened(entry)
            self.apply(self.membership.opened(entry, time.monotonic()))
            return self.collect(self.scribe.history)

        # Tried once: when storage is away, whoever is there afterwards is asked anew.
        attempts = iter((True,))
        self.scribe.write(Job(make, done, lambda: next(attempts, False)))

    def _over(self, effect: GenerationOver) -> None:
        if not effect.planned:
            pace = self.membership.pace
            self.accounts.incident(effect.cause, effect.nodes, effect.generation, pace.highest)
        self.accounts.over()

    def _complete(self, history: History) -> tuple[Literal["complete", "failed"], str]:
        """All trainers ended with success; whether the run has reached its end, the log says."""
        step, total = history.newest.step if history.newest is not None else 0, self.terms.total_steps
        if step >= total:
            return "complete", f"all {total} steps are done"
        told = f"all trainers ended without an error, but the newest commit is of step {step} of {total}"
        return "failed", f"{told}: a program must commit its last step before it ends"

    def _fail(self, message: str) -> None:
        self._end(lambda _: ("failed", message))

    def _end(self, judge: Callable[[History], tuple[Literal["complete", "failed"], str]]) -> None:
        """Judged when its turn has come in the log: what was reported before stands there then."""

        def make(history: History) -> Ruled | None:
            if history.ended is not None:
                return None
            reason, message = judge(history)
            return End(term=self.term, reason=reason, message=message[:2000], time=time.time())

        def done(_: Ruled | None) -> None:
            end = self.scribe.history.ended
            if end is not None:
                code = ExitCode.DONE if end.reason == "complete" else ExitCode.TROUBLE
                self.apply([Close(f"{end.reason}: {end.message}", code)])

        self.scribe.write(Job(make, done))

    def storage(self, trouble: str | None) -> None:
        """The log could not be written; None: it can be again."""
        if trouble is None:
            return self._event(EventName.STORAGE_BACK, "the log is written again")
        return self._event(EventName.STORAGE_TROUBLE, f"nothing opens or commits until it is back: {trouble}")

    # ---- reports ---------------------------------------------------------------------------------------------------

    def report(self, node: str, report: Report, acknowledge: Callable[[], None]) -> None:  # noqa: C901 - see `apply`
        """A message that must arrive. `acknowledge` is called once what it says is safe: a step's line, of which there
        is no other trace, once it has reached the storage."""
        now = time.monotonic()
        match report:
            case Part():
                return self._part(node, report, acknowledge)
            case Steps():
                self._steps(report)
                return self.records.when_safe(acknowledge)
            case Trouble():
                self.apply(self.membership.trouble(node, report, now))
            case PhaseChange(generation=generation, phase=phase, step=step):
                self.accounts.phase(phase)
                self.apply(self.membership.phase(generation, phase, step, now))
            case RewindRequest() | SkipRequest():
                return self.corrections.ask(report, acknowledge)
            case Note(name=name, message=message, numbers=numbers, generation=generation):
                own = _EVENTS_OF_TRAINERS.get(name)
                self._event(
                    own or EventName.NOTE, message if own else f"{name}: {message}", node, generation, dict(numbers)
                )
            case Finished(generation=generation):
                self.apply(self.membership.finished(node, generation, now))
            case Leave(within_seconds=float()):
                self.apply(noticed(self.membership, node, report, self._commit_seconds, now))
            case Leave(reason=reason):
                self.apply(self.membership.leave(node, reason, now))
            case _:
                assert_never(report)
        return acknowledge()

    def ordered(self, order: Size | Places | Warnings | Drill) -> None:
        """A controller wants another number of nodes, has said where they are or which had better not be used, or
        wants a fault."""
        membership, now = self.membership, time.monotonic()
        match order:
            case Size():
                self.apply(membership.resize(order, now))
            case Places():
                membership.wanted = membership.wanted.placed(order)  # from the next generation on
            case Warnings():
                self.apply(warned(membership, order, self._commit_seconds, now))
            case Drill():
                carry_out(order, membership, Means(self.accounts.drills, self.records, self._event, self.deliver))

    def _steps(self, steps: Steps) -> None:
        generation = self.membership.generation
        if generation is None or generation.generation != steps.generation:
            return
        now, date = time.monotonic(), time.time()
        for record in steps.records:
            age = max(0.0, steps.sent - record.time)
            line = step_line(record, generation, date - age)
            if not self.accounts.is_new(line):
                continue
            self.records.add(line)
            self.accounts.step(line)
            self.apply(self.membership.stepped(steps.generation, record.step, now - age, now))
            self.apply(self.accounts.stragglers.heard(self.membership, record.numbers))

    def _part(self, node: str, part: Part, acknowledge: Callable[[], None]) -> None:
        """Acknowledged once committed, or once it never will be: until then the agent says it again."""
        try:
            fate = self.checkpoints.add(part)
        except PartRefused as error:
            self._event(EventName.NOTE, f"a checkpoint part was refused: {error}", node, part.generation)
            fate = Fate.VOID
        if fate is Fate.COMMITTED:
            self.deliver(node, Committed(generation=part.generation, step=part.step))
        if fate is not Fate.WAITING:
            acknowledge()

    def _committed(self, commit: Commit, ready: ReadyCommit) -> None:
        self._commit_seconds = ready.seconds
        numbers = {"step": float(commit.step), "seconds": ready.seconds, "stall_seconds": ready.stall_seconds}
        self._event(EventName.COMMITTED, f"step {commit.step}", None, commit.generation, numbers)
        self.accounts.committed(commit, ready)
        self.records.add(self.accounts.final_ledger(time.time()))
        told = Committed(generation=commit.generation, step=commit.step)
        for node in self.membership.roster.all():
            self.deliver(node.name, told)
        self.apply(self.membership.committed(commit.generation, commit.step, time.monotonic()))

    def _retired(self, entry: Retire) -> None:
        self._event(EventName.RETIRED, ", ".join(f"step {step}" for step in entry.steps))
        self.collect(self.scribe.history)

    def _corrected(self, wish: Wish, refused: str | None) -> None:
        match wish:
            case RewindRequest(from_step=first, to_step=last, reason=reason):
                what, name = f"from step {first} to {last}: {reason}", EventName.REWOUND
            case SkipRequest(first=first, last=last, reason=reason):
                what, name = f"positions {first} to {last}: {reason}", EventName.SKIPPED
        if refused is not None:
            return self._event(EventName.NOTE, f"a {wish.kind} was refused ({what}): {refused}", None, wish.generation)
        self._event(name, what, None, wish.generation)
        if isinstance(wish, RewindRequest):
            self.apply(self.membership.rewound(wish.generation, what, time.monotonic()))
        return None

    # ---- the clock -------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Silence, growth, formation; then the accounts."""
        self.apply(self.membership.tick(time.monotonic()))
        self.apply(self.accounts.stragglers.look(self.membership))
        self.accounts.advance(self.membership)

    def publish(self, now: float) -> None:
        """Once a second (`now` is a monotonic clock's): status, nodes, ledger."""
        ledger = self.accounts.ledger_line(time.time())
        if ledger is not None:
            self.records.add(ledger)
            self.records.when_safe(partial(self.accounts.is_safe, ledger))
        self.records.show(now, self.status, self.nodes)

    def finish(self) -> None:
        """The last words, after everybody has gone."""
        self.accounts.advance(self.membership)
        self.records.add(self.accounts.final_ledger(time.time()))
        self.records.show(time.monotonic(), self.status, self.nodes, whole=True)
        self.records.ship()

    def status(self) -> dict[str, object]:
        """The document of status.json."""
        return self.accounts.status(time.time(), self.membership, self.terms.total_steps)

    def nodes(self) -> dict[str, object]:
        """The document of nodes.json."""
        return self.accounts.nodes(self.membership)

    def answer(self) -> StatusAnswer:
        """For a controller."""
        generation = self.membership.generation
        inside = set(generation.names()) if generation and self.membership.state is State.OPEN else set[str]()
        names = [node.name for node in self.membership.roster.all() if node.connected]
        closing = self.membership.closing
        return StatusAnswer(
            status=self.status(),
            active=tuple(name for name in names if name in inside),
            spare=tuple(name for name in names if name not in inside),
            closed=closing.reason if closing else None,
        )
