"""Drills of a run: whether one may be done, to which node, and what came of it. Pure.

What must stay true: a run that does not allow drills is never hurt; an order that is told again is done once, by
whichever coordinator leads; what is shown as kept was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tessera_api.drill import GUARD, HANG, LASTING, OF_COORDINATORS, OF_THE_API_SERVER, PROMISES, Drill
from tessera_api.incident import Incident
from tessera_api.journal import DrillLine
from tessera_api.training_run_status import DrillResult, ShownDrill

KEPT = 10
WATCHED_SECONDS = 15.0
"""So long after a fault that nothing is promised of, nothing may have happened."""
LATEST_SECONDS = 90.0
"""An incident that begins later is not the fault's, the run's `hangSeconds` aside."""


class Drills:
    """See the module. `allowed`: whether the run takes part."""

    def __init__(self, allowed: bool, hang_seconds: float, every: int, known: Iterable[DrillLine] = ()) -> None:
        self._allowed, self._hang_seconds, self._every = allowed, hang_seconds, every
        self._lines = {line.drill.identity: line for line in known}
        self._answered: set[float] = set()
        """Times of drills whose incident has begun."""

    def refused(self, drill: Drill, members: tuple[str, ...]) -> str | None:
        """Why this drill is not done; None where it is. Empty: it was done before."""
        if drill.identity in self._lines:
            return ""
        if not self._allowed:
            return "this run allows no drills: set spec.drills to Allowed"
        if not members:
            return "no generation is open: try again once the run trains"
        if drill.node is not None and drill.node not in members:
            return f"{drill.node} does not train: {', '.join(members)} do"
        return None

    def begun(self, drill: Drill, members: tuple[str, ...], time: float) -> DrillLine:
        """It is done now. `time`: Unix seconds."""
        node = None if drill.fault in OF_COORDINATORS | OF_THE_API_SERVER else drill.node or members[0]
        line = DrillLine(time=time, drill=drill.model_copy(update={"node": node}))
        self._lines[drill.identity] = line
        return line

    def signal_of(self, detected: float) -> float | None:
        """When whoever hurt the run did so, of an incident that is detected now. The first one after a drill is its."""
        lines = [line for line in self._lines.values() if 0 <= detected - line.time <= self._latest(line.drill)]
        found = max((line.time for line in lines if line.time not in self._answered), default=None)
        self._answered |= {found} if found is not None else set()
        return found

    def _latest(self, drill: Drill) -> float:
        """So long after the fault an incident may be of it."""
        if PROMISES[drill.fault].detect is None:
            return WATCHED_SECONDS + (drill.seconds if drill.fault in LASTING else 0.0)
        return LATEST_SECONDS + self._hang_seconds

    def shown(self, incidents: Iterable[Incident], now: float) -> tuple[ShownDrill, ...]:
        """The newest ones, with what came of them."""
        by_signal: dict[float, Incident] = {}
        for incident in incidents:
            if incident.signal_time is not None:
                by_signal.setdefault(incident.signal_time, incident)
        newest = sorted(self._lines.values(), key=lambda line: line.time)[-KEPT:]
        return tuple(self._shown(line, by_signal, now) for line in newest)

    def _shown(self, line: DrillLine, by_signal: Mapping[float, Incident], now: float) -> ShownDrill:
        incident, drill = by_signal.get(line.time), line.drill
        shown = ShownDrill(identity=drill.identity, fault=drill.fault, node=drill.node)
        promise = PROMISES[drill.fault]
        if promise.detect is None:
            quiet = now - line.time >= self._latest(drill)
            result = DrillResult.BROKEN if incident is not None else DrillResult.KEPT if quiet else DrillResult.RUNS
            return shown.model_copy(update={"result": result})
        if incident is None:
            late = now - line.time > self._latest(drill)
            return shown.model_copy(update={"result": DrillResult.BROKEN if late else DrillResult.RUNS})
        detected = incident.detected - line.time
        measured: dict[str, object] = {"detect_seconds": f"{detected:.2f}", "result": DrillResult.RUNS}
        if incident.next_step is not None:
            recovered = incident.next_step - incident.detected
            allowed = promise.detect + (self._hang_seconds if promise is HANG else 0.0)
            lost = incident.steps_lost or 0
            few = lost <= 2 * self._every or promise is GUARD
            kept = detected <= allowed and recovered <= promise.recover and few
            measured |= {"recovery_seconds": f"{recovered:.2f}", "steps_lost": lost}
            measured["result"] = DrillResult.KEPT if kept else DrillResult.BROKEN
        return shown.model_copy(update=measured)
