"""The fleet: which nodes a local run has, and when an ended one is replaced. Pure: time is an argument, in seconds.

A slot is a place for one node; its node has a name that is used once in a start. What must stay true: nothing is
restarted in a hot loop (after `FREE_QUICK_DEATHS` deaths in a row, each within `QUICK_SECONDS`, a slot waits, twice
as long each time), and a slot whose node can't work is given up after a bounded number of tries, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera_api.exit_codes import ExitCode

QUICK_SECONDS = 10.0
FREE_QUICK_DEATHS = 3
FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
MOST_QUICK_DEATHS = 12
MOST_REFUSALS = 3
"""How often a node may say that it is unfit, or its input wrong, before its slot is given up."""
_REFUSALS = frozenset((ExitCode.UNFIT, ExitCode.WRONG_INPUT))


@dataclass
class Tries:
    """How often in a row something died at once, and what follows."""

    quick: int = 0

    def died(self, lived: float) -> float:
        """It lived so long. Returns how long to wait before the next try."""
        self.quick = self.quick + 1 if lived < QUICK_SECONDS else 0
        over = self.quick - FREE_QUICK_DEATHS
        return float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (over - 1))) if over > 0 else 0.0

    @property
    def hopeless(self) -> bool:
        """Whether it has been tried often enough."""
        return self.quick >= MOST_QUICK_DEATHS


@dataclass(frozen=True)
class Start:
    """Start a node now."""

    slot: int
    node: str


@dataclass(frozen=True)
class Verdict:
    """What becomes of the place of a node that has ended."""

    wait: float | None
    """Seconds until its replacement starts; None: there will be none."""
    given_up: str = ""
    """Why the slot is given up."""


@dataclass
class _Slot:
    number: int
    node: str | None = None
    due: float | None = 0.0
    """When its next node starts; None: it has one, or is given up."""
    refusals: int = 0
    given_up: bool = False

    def __post_init__(self) -> None:
        self.tries = Tries()


class Fleet:
    """See the module."""

    def __init__(self, slots: int) -> None:
        self._slots = [_Slot(number) for number in range(slots)]
        self._named = 0

    def starts(self, now: float) -> list[Start]:
        """The nodes to start now; they count as started."""
        due = [slot for slot in self._slots if slot.due is not None and slot.due <= now]
        return [self._start(slot) for slot in due]

    def _start(self, slot: _Slot) -> Start:
        slot.node, slot.due = f"node-{self._named}", None
        self._named += 1
        return Start(slot.number, slot.node)

    def next_due(self) -> float | None:
        """When `starts` will next have something to say."""
        return min((slot.due for slot in self._slots if slot.due is not None), default=None)

    def ended(self, node: str, code: int, lived: float, now: float) -> Verdict:
        """A node's process has ended by itself or by a signal."""
        slot = next((slot for slot in self._slots if slot.node == node), None)
        if slot is None:  # another stands in its place already
            return Verdict(None)
        slot.node = None
        slot.refusals = slot.refusals + 1 if code in _REFUSALS else 0
        wait = slot.tries.died(lived)
        if slot.refusals >= MOST_REFUSALS or slot.tries.hopeless:
            slot.given_up = True
            tries = max(slot.refusals, slot.tries.quick)
            return Verdict(None, f"its place is given up after {tries} tries: none could work")
        slot.due = now + wait
        return Verdict(wait)

    def supplement(self, node: str, now: float) -> bool:
        """The node's process lives, but it is not counted any more: its place goes to a new one, once."""
        for slot in self._slots:
            if slot.node == node:
                slot.node, slot.due = None, now
                return True
        return False

    @property
    def places(self) -> int:
        """Slots that have a node or will get one."""
        return sum(not slot.given_up for slot in self._slots)
