"""The incidents of a run, each open from the end of a generation until training is past where it was. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable

from tessera_api.failure import FailureClass
from tessera_api.incident import Finding, Incident
from tessera_coordinator.core.causes import Evidence
from tessera_coordinator.core.ladder import Ruling

RECENT = 20
MOST_FINDINGS = 64
MOST_BYTES = 128 << 10
"""Of words, logs and stacks in one bundle: a line of the journal has to hold them."""


class Incidents:
    """The incidents of a run, the last of which may still be open."""

    def __init__(self, known: int = 0) -> None:
        self._count = known
        self._open: list[Incident] = []
        self.steps_lost = 0
        self.classes: Counter[FailureClass] = Counter()
        """How many there were of each class, those that are judged."""
        self._recent: dict[int, Incident] = {}

    def begin(
        self,
        cause: str,
        nodes: tuple[str, ...],
        generation: int,
        highest: int,
        now: float,
        signal: float | None = None,
    ) -> Incident:
        """A generation ended unplanned. `signal`: when a drill began that it is of."""
        self._count += 1
        incident = Incident(
            number=self._count,
            cause=cause,
            nodes=nodes,
            detected=now,
            generation_before=generation,
            highest_step_before=highest,
            signal_time=signal,
        )
        self._open.append(incident)
        self._remember([incident])
        return incident

    @classmethod
    def resumed(cls, known: list[Incident]) -> Incidents:
        """From what was written: a restarted coordinator goes on with incidents that are still open."""
        incidents = cls(max((incident.number for incident in known), default=0))
        for incident in known:
            incidents.steps_lost += incident.steps_lost or 0
            incidents.classes.update([incident.failure] if incident.failure is not None else [])
            incidents._remember([incident])
            if incident.passed_highest is None:
                incidents._open.append(incident)
        return incidents

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count

    def judged(self, generation: int, ruling: Ruling) -> list[Incident]:
        """It is known what the generation ended of. Returns the incidents that changed."""
        cause = ruling.cause
        said = {
            "failure": cause.failure,
            "place": cause.place[:300],
            "node": cause.node,
            "rank": cause.rank,
            "action": ruling.rung,
            "words": cause.words[:2000],
        }
        changed = self._update(lambda i: i.model_copy(update=said) if i.generation_before == generation else i)
        self.classes.update(cause.failure for _ in changed)
        return changed

    def opened(self, generation: int, now: float) -> list[Incident]:
        """A newer generation is open. Returns the incidents that changed."""
        return self._update(
            lambda i: i.model_copy(update={"generation_after": generation, "opened": now}) if i.next_step is None else i
        )

    def stepped(self, step: int, at: float) -> list[Incident]:
        """A step was completed in the open generation."""

        def change(incident: Incident) -> Incident:
            if incident.opened is not None and incident.next_step is None:
                lost = max(0, incident.highest_step_before - step + 1)
                self.steps_lost += lost
                incident = incident.model_copy(update={"next_step": at, "first_step_after": step, "steps_lost": lost})
            if incident.next_step is not None and step > incident.highest_step_before:
                incident = incident.model_copy(update={"passed_highest": at})
            return incident

        changed = self._update(change)
        self._open = [incident for incident in self._open if incident.passed_highest is None]
        return changed

    def _update(self, change: Callable[[Incident], Incident]) -> list[Incident]:
        before, self._open = self._open, [change(incident) for incident in self._open]
        changed = [new for old, new in zip(before, self._open, strict=True) if new != old]
        self._remember(changed)
        return changed

    def _remember(self, incidents: list[Incident]) -> None:
        for incident in incidents:
            self._recent[incident.number] = incident
        for number in sorted(self._recent)[:-RECENT]:
            del self._recent[number]

    def recent(self) -> tuple[Incident, ...]:
        """The newest ones, open or not, in order."""
        return tuple(self._recent[number] for number in sorted(self._recent))


def findings_of(evidence: Iterable[Evidence], past: float) -> tuple[Finding, ...]:
    """The bundle of an incident, in order of time. `past`: Unix seconds at which the evidence's clock began."""
    found, room = list[Finding](), MOST_BYTES
    for seen in sorted(evidence, key=lambda seen: seen.at)[:MOST_FINDINGS]:
        words, log = _cut(seen.words, min(room, 2000)), _cut(seen.log, room - 2000)
        room -= _bytes(words) + _bytes(log)
        found.append(
            Finding(
                kind=seen.sign.value,
                time=round(seen.at + past, 3),
                node=seen.node,
                rank=seen.rank,
                place=seen.place[:300],
                words=words,
                log=log,
            )
        )
    return tuple(found)


def _bytes(text: str) -> int:
    return len(json.dumps(text))


def _cut(text: str, room: int) -> str:
    while text and _bytes(text) > room:
        text = text[: len(text) // 2]
    return text
