"""Planned ends of nodes: one that knows that it is about to be ended hands over, with a commit. Pure (design.md §2.1).

What must stay true: a save is begun only if there is time for it, as the last ones took theirs; a node that could not
hand over in time is no more than a node that leaves; nothing of this counts as a failure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tessera_api.journal import EventName
from tessera_api.messages import Leave
from tessera_api.orders import Warnings
from tessera_coordinator.core.effects import Announce, Effect
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.state import State

MARGIN_SECONDS = 3.0
"""So long before its end a node needs nothing more of anybody."""
STEPS = 2.0
"""Until all have parked: the step under way, and one more."""


def noticed(membership: Membership, node: str, leave: Leave, commit_seconds: float, now: float) -> list[Effect]:
    """A node says that it ends in `leave.within_seconds`. `commit_seconds`: what the last commit took."""
    assert leave.within_seconds is not None
    wanted = membership.wanted
    membership.wanted = replace(wanted, ending=wanted.ending | {node})
    words = f"ends in {leave.within_seconds:.0f} s: {leave.reason}"
    return _hand_over(membership, node, words, Time(leave.within_seconds, commit_seconds, now))


def warned(membership: Membership, warnings: Warnings, commit_seconds: float, now: float) -> list[Effect]:
    """A controller says which nodes are about to end, or have sick devices. It says so again on every new stream, so
    only what is new is acted upon; and a coordinator that takes over hears of it too."""
    known = membership.wanted.warned
    membership.wanted = replace(membership.wanted, warned=frozenset(node.node for node in warnings.nodes))
    membership.judge.sick = {node.node: node.reason for node in warnings.nodes if node.sick}
    effects: list[Effect] = []
    for node in warnings.nodes:
        if node.node not in known and membership.roster.get(node.node) is not None:
            words = f"is to hand over within {node.within_seconds:.0f} s: {node.reason}"
            effects += _hand_over(membership, node.node, words, Time(node.within_seconds, commit_seconds, now))
    return effects


@dataclass(frozen=True)
class Time:
    """How much there is, in seconds."""

    within: float
    commit: float
    """What the last commit took."""
    now: float


def _hand_over(membership: Membership, node: str, words: str, time: Time) -> list[Effect]:
    generation = membership.generation
    number = generation.generation if generation is not None else 0
    trains = generation is not None and membership.state is State.OPEN and node in generation.names()
    left = time.within - MARGIN_SECONDS
    needed = time.commit + STEPS * (membership.pace.median() or 0.0)
    if not trains or membership.parking.order is not None:
        return [Announce(EventName.NOTE, words, node, number)]
    if left < needed:
        late = f"{words}; a commit takes {needed:.0f} s: none is begun"
        return [Announce(EventName.NOTE, late, node, number)]
    membership.parking.change(f"{node} {words}"[:2000], left, time.now)
    order = Announce(EventName.STOP_ORDERED, f"{words}; all park and commit first", node, number)
    return [order, *membership.tell_all(time.now)]
