"""Planned ends of nodes: one that knows that it is about to be ended hands over, with a commit. Pure (design.md §2.1).

What must stay true: a save is begun only if there is time for it, as the last ones took theirs; a node that could not
hand over in time is no more than a node that leaves; nothing of this counts as a failure.
"""

from __future__ import annotations

from dataclasses import replace

from tessera_api.journal import EventName
from tessera_api.messages import Leave
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
    wanted, generation = membership.wanted, membership.generation
    membership.wanted = replace(wanted, ending=wanted.ending | {node})
    number = generation.generation if generation is not None else 0
    trains = generation is not None and membership.state is State.OPEN and node in generation.names()
    left = leave.within_seconds - MARGIN_SECONDS
    needed = commit_seconds + STEPS * (membership.pace.median() or 0.0)
    words = f"ends in {leave.within_seconds:.0f} s: {leave.reason}"
    if not trains or membership.parking.order is not None:
        return [Announce(EventName.NOTE, words, node, number)]
    if left < needed:
        late = f"{words}; a commit takes {needed:.0f} s: none is begun"
        return [Announce(EventName.NOTE, late, node, number)]
    membership.parking.change(f"{node} {words}"[:2000], left, now)
    order = Announce(EventName.STOP_ORDERED, f"{words}; all park and commit first", node, number)
    return [order, *membership.tell_all(now)]
