"""What is told about the run: ledger, incidents, status, nodes. Owns the numbers, decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tessera_api.exit_codes import ExitCode
from tessera_api.incident import Incident
from tessera_api.journal import Event, EvidenceLine, IncidentLine, LedgerLine, StepLine
from tessera_api.log import Commit, Open
from tessera_api.messages import Phase
from tessera_api.training_run_status import RunPhase
from tessera_coordinator.core.commits import ReadyCommit
from tessera_coordinator.core.drilling import Drills
from tessera_coordinator.core.effects import Judged
from tessera_coordinator.core.incidents import Incidents, findings_of
from tessera_coordinator.core.ledger import Activity, Cause, Ledger
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.nodes import Node
from tessera_coordinator.core.presence import Presence
from tessera_coordinator.core.state import State
from tessera_coordinator.core.status import Seen, status
from tessera_coordinator.core.stragglers import Stragglers

LEDGER_SECONDS = 5.0


@dataclass(frozen=True)
class Past:
    """What was before this coordinator."""

    created: float
    """When the run began, Unix seconds."""
    newest: StepLine | None = None
    """The last step that was told."""
    away: float | None = None
    """Seconds since the coordinator before it last counted, where it goes on with that one's generation."""
    node_price: float | None = None
    """Of a node an hour."""
    drills: Drills | None = None
    """None: the run allows none."""


class Accounts:
    """See the module."""

    def __init__(
        self, incidents: Incidents, ledger: Ledger, past: Past, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.incidents, self.ledger = incidents, ledger
        self._past, self._newest, self._clock = past, past.newest, clock
        self.drills = past.drills or Drills(allowed=False, hang_seconds=0.0, every=0)
        self._presence = Presence(clock(), past.away)
        self.published = ledger.seconds()
        """Of the ledger what is safe in the storage: what counters show never falls, whoever takes over."""
        self.record: Callable[[IncidentLine | EvidenceLine], None] = lambda line: None
        """Called with every incident that has changed, and with all that was seen of one."""
        self.stragglers = Stragglers(replaces=False)
        self._membership: Membership | None = None
        self._first_generation: int | None = None
        self._nodes = 0
        """Of the open generation."""
        self._recovering = False
        self._evaluating = False
        self._phase, self._since, self._message = RunPhase.PENDING, time.time(), "waiting for nodes"
        self._end: RunPhase | None = None
        self._ledger_at = 0.0

    # ---- what happened --------------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """The newest event explains the status."""
        if self._end is None:
            self._message = f"{event.name.value}: {event.message}" if event.message else event.name.value

    def attend(self, membership: Membership) -> None:
        """Every node is counted from when it comes until it goes."""
        self._membership = membership
        membership.roster.came = lambda node: self._came(node, membership)
        membership.roster.goes = lambda node: self._goes(node, membership)

    def _came(self, node: Node, membership: Membership) -> None:
        seconds, was_part = self._presence.came(node, self._clock())
        self.ledger.spend(self._outside(membership) if was_part else Activity.STARTING, seconds)

    def _goes(self, node: Node, membership: Membership) -> None:
        seconds = self._presence.gone(node, self._clock())
        self.ledger.spend(self._activity(membership, membership.member(node.name)), seconds)

    def _outside(self, membership: Membership) -> Activity:
        """What a node did that was part of the run and not heard."""
        return Activity.SPARE if membership.state is State.OPEN else Activity.RECOVERING

    def adopted(self, generation: Open) -> None:
        """A restarted coordinator goes on with it; its members have computed meanwhile."""
        self.ledger.spend(Activity.COMPUTING, (self._past.away or 0.0) * len(generation.members))
        self._nodes = len(generation.members)
        self._first_generation = 1
        self._recovering = False

    def opened(self, generation: Open) -> None:
        """A generation is open: what the one before computed after the step that it begins from is thrown away."""
        self.ledger.began(generation.resume.step if generation.resume else 0)
        self._nodes = len(generation.members)
        if self._first_generation is None:
            self._first_generation = 1
        self._write(self.incidents.opened(generation.generation, time.time()))

    def incident(self, cause: str, nodes: tuple[str, ...], generation: int, highest: int) -> None:
        """A generation ended unplanned."""
        newest = self._newest.step if self._newest else -1
        now = time.time()
        begun = self.incidents.begin(cause, nodes, generation, max(highest, newest), now, self.drills.signal_of(now))
        self._write([begun])
        self._recovering = True

    def judged(self, judged: Judged) -> None:
        """It is known what the generation ended of."""
        past = time.time() - judged.now
        changed = self.incidents.judged(judged.generation, judged.ruling)
        self._write(changed)
        for incident in changed:
            self.record(EvidenceLine(number=incident.number, findings=findings_of(judged.findings, past)))

    def over(self) -> None:
        """The generation has ended; what of it is lost is known once the next begins."""
        self._evaluating = False
        self.stragglers.over()

    def phase(self, phase: Phase) -> None:
        """Rank 0 declared a phase."""
        self._evaluating = phase is Phase.EVALUATION

    def is_new(self, line: StepLine) -> bool:
        """Whether this step of this generation was not written before: reports may come twice."""
        newest = self._newest
        return newest is None or (line.generation, line.step) > (newest.generation, newest.step)

    def step(self, line: StepLine) -> None:
        """A completed step."""
        first = self._newest is None or self._newest.generation != line.generation
        self._newest = line
        if self._membership is not None:
            self.advance(self._membership)
        self.ledger.stepped(line.step)
        if first:
            self._recovering = False
        self._write(self.incidents.stepped(line.step, line.time))
        if line.data_seconds:
            self.ledger.stalled(Cause.DATA_WAIT, line.data_seconds * self._nodes)

    def committed(self, commit: Commit, ready: ReadyCommit) -> None:
        """What was computed until now is safe."""
        self.ledger.stalled(Cause.CHECKPOINT_STALL, ready.stall_seconds * self._nodes)
        self.ledger.committed(commit.step)

    def closed(self, exit_code: ExitCode, reason: str) -> None:
        """It is over."""
        ends = {ExitCode.DONE: RunPhase.SUCCEEDED, ExitCode.STOPPED: RunPhase.STOPPED}
        self._end, self._message = ends.get(exit_code, RunPhase.FAILED), reason
        if exit_code is ExitCode.DONE:
            self.ledger.committed(self._newest.step if self._newest is not None else 0)
        self.ledger.lost()

    def _write(self, changed: list[Incident]) -> None:
        for incident in changed:
            self.record(IncidentLine(incident=incident))

    # ---- the numbers ----------------------------------------------------------------------------------------------

    def advance(self, membership: Membership) -> None:
        """The time since the last call, by what each node was doing."""
        inside, outside = self._activity(membership, True), self._activity(membership, False)
        members = membership.roster.count_of(membership.seating.names) if membership.seating else 0
        doing = ((members, inside), (membership.roster.count() - members, outside))
        of = lambda name: inside if membership.member(name) else outside  # noqa: E731
        for activity, seconds in self._presence.passed(self._clock(), doing, of).items():
            self.ledger.spend(activity, seconds)

    def _activity(self, membership: Membership, inside: bool) -> Activity:
        if membership.state is State.CLOSED:
            return Activity.IDLE
        if membership.generation is None:
            return Activity.STARTING
        if not inside:
            return Activity.SPARE
        if membership.state is not State.OPEN or membership.pace.highest < 0:
            return Activity.RECOVERING if self._recovering else Activity.STARTING
        return Activity.EVALUATING if self._evaluating else Activity.COMPUTING

    def ledger_line(self, now: float) -> LedgerLine | None:
        """For the journal, every few seconds."""
        if now - self._ledger_at < LEDGER_SECONDS:
            return None
        self._ledger_at = now
        return self.final_ledger(now)

    def final_ledger(self, now: float) -> LedgerLine:
        """As it stands."""
        return LedgerLine(time=now, seconds=self.ledger.seconds(), uncommitted=round(self.ledger.uncommitted, 3))

    def is_safe(self, line: LedgerLine) -> None:
        """That line has reached the storage."""
        self.published = line.seconds

    def nodes(self, membership: Membership) -> dict[str, object]:
        """The document of nodes.json."""
        generation = membership.generation if membership.state is State.OPEN else None
        ranks: dict[str, list[int]] = {}
        first = 0
        for member in generation.members if generation else ():
            ranks[member.node] = list(range(first, first + member.processes))
            first += member.processes
        return {
            node.name: {
                "agentPid": node.facts.agent_pid,
                "workerPids": list(node.facts.worker_pids),
                "sessions": list(node.facts.sessions),
                "role": "active" if node.name in ranks else "spare",
                "ranks": ranks.get(node.name, []),
                "generation": generation.generation if generation and node.name in ranks else None,
            }
            for node in membership.roster.all()
            if node.facts is not None
        }

    def status(self, now: float, membership: Membership, total_steps: int) -> dict[str, object]:
        """The document of status.json."""
        phase = self._end or self._present(membership)
        if phase is not self._phase:
            self._phase, self._since = phase, now
        generation = membership.generation
        is_open = generation is not None and membership.state is State.OPEN
        document = status(
            Seen(
                phase=phase,
                message=self._message,
                total_steps=total_steps,
                wanted=membership.wanted.count,
                active=len(generation.members) if generation and is_open else 0,
                generation=generation.generation if generation else 0,
                first_generation=self._first_generation or 1,
                ledger=self.ledger,
                node_price=self._past.node_price,
                newest=self._newest,
                seconds_per_step=membership.pace.median(),
                created=self._past.created,
                changed=self._since,
                now=now,
                incidents=self.incidents.recent(),
                stragglers=self.stragglers.shown,
                drills=self.drills.shown(self.incidents.recent(), now),
            )
        )
        return document.model_dump(mode="json", by_alias=True, exclude_none=True)

    def _present(self, membership: Membership) -> RunPhase:
        if membership.generation is None:
            return RunPhase.PENDING
        if membership.parking.stopping:
            return RunPhase.STOPPING
        if membership.state is not State.OPEN or membership.pace.highest < 0:
            return RunPhase.RECOVERING if self._recovering else RunPhase.STARTING
        return RunPhase.RUNNING
