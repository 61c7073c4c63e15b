"""Judging the ends of generations: collects what was seen, and carries out what the ladder says. Pure.

What must stay true: a generation's end is judged once, when the next one could be opened, so that what its nodes say on
their way back counts; a node is sent away, or has to prove itself, only by a ruling; whoever was sent away is told
again whenever it speaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tessera_api.exit_codes import ExitCode
from tessera_api.failure import FailureClass, Rung
from tessera_api.inspection import Prove
from tessera_api.journal import EventName
from tessera_api.log import Open
from tessera_api.messages import Closed
from tessera_api.trouble import Trouble, TroubleKind
from tessera_coordinator.core.causes import Case, Cause, Evidence
from tessera_coordinator.core.effects import Announce, Effect, Fail, Judged, Send
from tessera_coordinator.core.failures import Sign
from tessera_coordinator.core.hang import Hang
from tessera_coordinator.core.ladder import Ladder, Ruling
from tessera_coordinator.core.nodes import Node, Roster

PROOF_SECONDS = 30.0
"""So long a node that is to prove itself may take; one of an older version, which does not know how, is taken then."""
_GONE = (FailureClass.LOST_NODE, FailureClass.PREEMPTION)
_MAYBE_SICK = (FailureClass.WORKER_CRASH, FailureClass.HANG, FailureClass.UNKNOWN)
_SIGNS = {TroubleKind.COLLECTIVE: Sign.COLLECTIVE, TroubleKind.STORAGE: Sign.STORAGE}


@dataclass(frozen=True)
class _Over:
    """A generation that ended unplanned and is not judged yet."""

    generation: Open
    highest: int


class Judge:
    """See the module."""

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._case = Case()
        self._over: _Over | None = None
        self._best_before = -1
        self._proving: dict[str, tuple[int, float]] = {}
        """The offer that is not taken, and until when."""
        self._dismissed: dict[str, Closed] = {}
        self._refused: set[str] = set()
        self.sick: dict[str, str] = {}
        """Nodes of which a controller says that their devices are sick, and why it thinks so."""
        self.ended = False
        """Whether the run has failed."""

    @property
    def pause_s(self) -> float:
        """How long to wait before the next generation is opened."""
        return self._ladder.pause_s

    # ---- what is seen ---------------------------------------------------------------------------------------------

    def trouble(self, node: str, trouble: Trouble, now: float) -> None:
        """A trainer failed."""
        sign = _SIGNS.get(trouble.what, Sign.PROGRAM)
        self._case.add(Evidence(sign, now, node, trouble.rank, trouble.place, trouble.message, trouble.log))

    def lost(self, node: Node | None, why: str) -> None:
        """A member is lost: since it was last heard, or its stream closed."""
        if node is not None:
            since = min(node.heard, node.closed or node.heard)
            self._case.add(Evidence(Sign.LOST, since, node.name, words=why))

    def left(self, node: str, why: str, now: float) -> None:
        """A member ends itself."""
        self._case.add(Evidence(Sign.LEFT, now, node, words=why))

    def hang(self, hang: Hang, now: float) -> None:
        """Nothing is computed any more."""
        self._case.add(Evidence(Sign.HANG, now, hang.node, hang.rank, hang.place, hang.words, hang.stacks))

    def rewound(self, why: str, now: float) -> None:
        """Training goes back."""
        self._case.add(Evidence(Sign.REWOUND, now, words=why))

    def quiet(self, node: str, now: float) -> None:
        """A node's trainers have ended; if any said why, that was before."""
        self._case.add(Evidence(Sign.QUIET, now, node, words="its workers ended"))

    # ---- generations ----------------------------------------------------------------------------------------------

    def began(self, best_step: int) -> None:
        """A generation is open; `best_step` is the highest that any before it reached."""
        self._case, self._over, self._best_before = Case(), None, best_step
        self._proving.clear()

    def ends(self, generation: Open, highest: int, planned: bool) -> None:
        """A generation is over. -1: it made no step."""
        self._ladder.over(highest)
        self._over = None if planned else _Over(generation, highest)

    def rule(self, roster: Roster, now: float) -> list[Effect]:
        """The next generation could be opened: first the end of the last one is judged. Nothing, if that is done."""
        over, self._over = self._over, None
        if over is None:
            return []
        ranks = sum(member.processes for member in over.generation.members)
        cause = self._case.cause(ranks, over.highest >= 0) or Cause(FailureClass.UNKNOWN, "")
        if cause.node in self.sick and cause.failure in _MAYBE_SICK:
            cause = replace(cause, failure=FailureClass.SICK_DEVICE, words=f"{self.sick[cause.node]}; {cause.words}")
        ruling = self._ladder.climb(cause, over.highest, self._best_before)
        number, words = over.generation.generation, in_words(ruling)
        findings = tuple(self._case.evidence)
        effects: list[Effect] = [
            Announce(EventName.DIAGNOSED, words, ruling.cause.node, number),
            Judged(number, ruling, findings, now),
        ]
        return effects + self._carry_out(ruling, over.generation, roster, now)

    def _carry_out(self, ruling: Ruling, generation: Open, roster: Roster, now: float) -> list[Effect]:
        cause = ruling.cause
        named = [cause.node] if cause.node is not None else list(generation.names())
        nodes = [node for name in named if (node := roster.get(name)) is not None]
        match ruling.rung:
            case Rung.RESTART:
                return []
            case Rung.RE_FORM:
                return [self._prove(node, in_words(ruling), now) for node in nodes if node.join is not None]
            case Rung.REPLACE if cause.failure in _GONE:
                return []
            case Rung.REPLACE:
                return [self._dismiss(node, in_words(ruling), roster) for node in nodes]
            case Rung.ELSEWHERE:
                members = filter(None, map(roster.get, generation.names()))
                return [self._dismiss(node, in_words(ruling), roster) for node in members]
            case Rung.END:
                self.ended = True
                return [Fail(ruling.remedy)]

    def _prove(self, node: Node, words: str, now: float) -> Send:
        assert node.join is not None
        self._proving[node.name] = (node.join.sequence, now + PROOF_SECONDS)
        return Send(node.name, Prove(join=node.join.sequence, reason=words[:2000]))

    def send_away(self, name: str, words: str, roster: Roster) -> list[Effect]:
        """A node that is wanted no more, if it is still there."""
        node = roster.get(name)
        return [self._dismiss(node, words, roster)] if node is not None else []

    def _dismiss(self, node: Node, words: str, roster: Roster) -> Send:
        self._dismissed[node.name] = Closed(reason=words[:2000], exit_code=ExitCode.REPLACED)
        roster.drop(node.name)
        return Send(node.name, self._dismissed[node.name])

    # ---- who takes part -------------------------------------------------------------------------------------------

    def dismissed(self, node: str) -> list[Effect]:
        """What a node is told that was sent away; nothing for any other."""
        return [Send(node, self._dismissed[node])] if node in self._dismissed else []

    def candidates(self, roster: Roster, now: float) -> list[Node]:
        """Every node; the offer of one that is to prove itself does not stand."""
        return [replace(node, join=None) if self._proves(node, now) else node for node in roster.all()]

    def news(self, refused: dict[str, str]) -> list[tuple[str, str]]:
        """Of nodes that may not take part, those that were not told of before, with the reason."""
        known, self._refused = self._refused, self._refused | refused.keys()
        return [(name, why) for name, why in refused.items() if name not in known]

    def _proves(self, node: Node, now: float) -> bool:
        sequence, until = self._proving.get(node.name, (0, now))
        return node.join is not None and node.join.sequence == sequence and now < until


def in_words(ruling: Ruling) -> str:
    """For people: what it was, where, and what is done about it."""
    cause = ruling.cause
    rank = f" on rank {cause.rank}" if cause.rank is not None else ""
    place = f" at {cause.place}" if cause.place else ""
    again = f", for the {ruling.count}th time without a new step" if ruling.count > 1 else ""
    said = f": {cause.words}" if cause.words and cause.words != cause.place else ""
    return f"{cause.failure.value}{rank}{place}{again}; {ruling.rung.value}{said}"[:2000]
