"""When does a coordinator that stands by take the lead? Pure rules over what it hears (design.md §2.1).

Two kinds of witnesses must agree: the leader has not answered the standby itself, and more than half of the agents
that are heard say that it has not answered them. What must stay true: time in which this coordinator was not awake
counts for nothing; a run whose agents hear their leader keeps it, whoever else cannot; two that claim are no danger,
since the log takes one.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera_coordinator.core.history import History

SILENCE_SECONDS = 3.0
HEARD_SECONDS = 2.5
"""A witness that has not spoken for so long is not heard: on the leader's node it may have died with it."""
AWAKE_SECONDS = 0.5
"""A longer gap between two looks means that this coordinator was not awake."""


FIRST_SLOT = "c0"


def first_in_line(history: History, slot: str | None) -> bool:
    """Whether the coordinator in `slot` leads without asking the agents, if nobody else does: the one that led last,
    and at a run's beginning the first."""
    return slot is None or slot == (history.slot or FIRST_SLOT)


@dataclass
class _Witness:
    heard: float
    silence: float
    """For how long the leader was silent to it, when it last spoke."""


class Succession:
    """What a standby has heard. Times are seconds of its own clock."""

    def __init__(self, now: float) -> None:
        self._leader = self._looked = now
        self._witnesses: dict[str, _Witness] = {}

    def leader_heard(self, now: float) -> None:
        """The leader has answered this coordinator."""
        self._leader = now

    def said(self, node: str, silence: float, now: float) -> None:
        """An agent says for how long the leader has been silent to it."""
        self._witnesses[node] = _Witness(now, silence)

    def gone(self, node: str) -> None:
        """An agent has no stream any more."""
        self._witnesses.pop(node, None)

    def due(self, now: float) -> bool:
        """Whether to take the lead. To be called at least every `AWAKE_SECONDS`."""
        gap, self._looked = now - self._looked, now
        if gap > AWAKE_SECONDS:
            self._leader, self._witnesses = now, {}
            return False
        if now - self._leader < SILENCE_SECONDS:
            return False
        heard = [witness for witness in self._witnesses.values() if now - witness.heard < HEARD_SECONDS]
        agree = sum(witness.silence >= SILENCE_SECONDS for witness in heard)
        return 2 * agree > len(heard)

    def words(self, now: float) -> str:
        """What it goes by, for people."""
        heard = [witness for witness in self._witnesses.values() if now - witness.heard < HEARD_SECONDS]
        agree = sum(witness.silence >= SILENCE_SECONDS for witness in heard)
        return f"the leader is silent for {now - self._leader:.1f} s, and to {agree} of {len(heard)} nodes"
