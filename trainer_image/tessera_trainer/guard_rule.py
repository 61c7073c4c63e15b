"""The loss guard's rule: from the numbers of each step to what is done about it (design.md §2.5). Pure.

Loss and gradient norm are the same on every rank, so all ranks decide the same without asking each other; the state
lies in each checkpoint, so that training which goes back decides anew from what was known then.

(a) A wild step, one that is not finite or whose loss and gradient norm are both far outside, is left out: no weight
changes, and its numbers go into no window. (b) A sustained rise, or wild steps in a row, means going back behind its
onset. (c) A slow drift is told. The gradient norm alone decides nothing. Thresholds: measured on five public logs of
healthy runs (field notes of this project): medians and their absolute deviations, since both tails are heavy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

from tessera_api.record import Record

REFERENCE = 256
"""Losses that the newest are compared with,"""
RECENT = 8
"""which are so many, and come right after them."""
ENOUGH = 128
"""Of the reference, before anything is compared with it."""
RISE_NATS, RISE_SPREADS = 0.2, 4.0
WILD_NATS, WILD_SPREADS, WILD_NORMS = 1.0, 10.0, 10.0
WILD_IN_A_ROW = 5
MOST_LEFT_OUT, SPAN = 10, 1000
"""So many of so many steps may be left out; more is no accident."""
DRIFT_NATS, DRIFT_SPREADS, DRIFT_WINDOW, DRIFT_EVERY, DRIFT_SPAN = 0.2, 1.6, 64, 16, 2000
GAPS = 3
"""Steps inside the band that do not end a rise, when its onset is looked for."""


class Verdict(Enum):
    """What is done about a step."""

    TAKE = "its update is applied"
    LEAVE_OUT = "its update is not applied"
    GO_BACK = "training goes back to before the onset"


class GuardState(Record):
    """All that the guard knows of what was before."""

    losses: tuple[float, ...] = ()
    """Of steps that were taken, oldest first: at most `REFERENCE` + `RECENT`."""
    norms: tuple[float, ...] = ()
    medians: tuple[float, ...] = ()
    """Of `DRIFT_WINDOW` losses, one every `DRIFT_EVERY` steps, of the last `DRIFT_SPAN`."""
    left_out: tuple[int, ...] = ()
    """Steps of the last `SPAN`."""
    in_a_row: int = 0
    """Wild steps up to the newest."""
    told: int = -1
    """The step at which a drift was last told."""


@dataclass(frozen=True)
class Looked:
    """What came of looking at a step."""

    verdict: Verdict
    state: GuardState
    onset: int = 0
    """Of what training goes back for: the first step outside."""
    words: str = ""
    """Why, for people; also where the step is taken and a drift is told."""


@dataclass(frozen=True)
class Rule:
    """`changes`: steps from which on losses may be others by declaration (a new stage of the data, the end of the
    warm-up): what was before is no reference for them."""

    changes: frozenset[int] = field(default_factory=frozenset)

    def look(self, state: GuardState, step: int, loss: float, norm: float) -> Looked:
        """At the numbers of `step` (loss in nats, norm before clipping), before its update is applied."""
        if step in self.changes:
            state = GuardState(left_out=state.left_out)
        state = state.model_copy(update={"left_out": tuple(s for s in state.left_out if s > step - SPAN)})
        if why := _wild(state, loss, norm):
            return _left_out(state, step, why)
        state = taken(state, loss, norm)
        return _risen(state, step) or _drifted(state, step)


def taken(state: GuardState, loss: float, norm: float) -> GuardState:
    """The state once a step's numbers have entered the windows."""
    losses, norms = (*state.losses, loss)[-(REFERENCE + RECENT) :], (*state.norms, norm)[-REFERENCE:]
    return state.model_copy(update={"losses": losses, "norms": norms, "in_a_row": 0})


def _wild(state: GuardState, loss: float, norm: float) -> str:
    """Why the step is wild; empty if it is not."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss {loss}, gradient norm {norm}"
    if len(state.losses) < ENOUGH:
        return ""
    middle, spread = _band(state.losses[-REFERENCE:])
    usual = median(state.norms)
    far = loss > middle + max(WILD_NATS, WILD_SPREADS * spread)
    if far and norm > WILD_NORMS * usual:
        return f"loss {loss:.3f} after a median of {middle:.3f}, gradient norm {norm:.3g} after one of {usual:.3g}"
    return ""


def _left_out(state: GuardState, step: int, why: str) -> Looked:
    left = (*state.left_out, step)
    state = state.model_copy(update={"left_out": left, "in_a_row": state.in_a_row + 1})
    if state.in_a_row >= WILD_IN_A_ROW:
        return Looked(Verdict.GO_BACK, state, step - state.in_a_row + 1, f"{state.in_a_row} wild steps in a row: {why}")
    if len(left) > MOST_LEFT_OUT:
        return Looked(Verdict.GO_BACK, state, left[0], f"{len(left)} wild steps in {SPAN}: {why}")
    return Looked(Verdict.LEAVE_OUT, state, step, why)


def _risen(state: GuardState, step: int) -> Looked | None:
    reference, recent = state.losses[:-RECENT], state.losses[-RECENT:]
    if len(reference) < ENOUGH:
        return None
    middle, spread = _band(reference)
    edge = middle + max(RISE_NATS, RISE_SPREADS * spread)
    if median(recent) <= edge:
        return None
    outside, inside = 0, 0
    for place, loss in enumerate(reversed(state.losses)):
        outside, inside = (place, 0) if loss > edge else (outside, inside + 1)
        if inside > GAPS:
            break
    words = (
        f"the median loss of {RECENT} steps is {median(recent):.3f}, that of the {len(reference)} before {middle:.3f}"
    )
    return Looked(Verdict.GO_BACK, state, step - outside, words)


def _drifted(state: GuardState, step: int) -> Looked:
    if step % DRIFT_EVERY or len(state.losses) < DRIFT_WINDOW:
        return Looked(Verdict.TAKE, state)
    now = median(state.losses[-DRIFT_WINDOW:])
    medians = (*state.medians, now)[-(DRIFT_SPAN // DRIFT_EVERY) :]
    state = state.model_copy(update={"medians": medians})
    edge = max(DRIFT_NATS, DRIFT_SPREADS * _band(state.losses)[1])
    if now - min(medians) <= edge or (state.told >= 0 and step - state.told < DRIFT_SPAN):
        return Looked(Verdict.TAKE, state)
    words = (
        f"the median loss of {DRIFT_WINDOW} steps is {now:.3f}, and was {min(medians):.3f}: nothing is done about it"
    )
    return Looked(Verdict.TAKE, state.model_copy(update={"told": step}), words=words)


def _band(losses: tuple[float, ...]) -> tuple[float, float]:
    """Median, and median of the absolute deviations from it."""
    middle = median(losses)
    return middle, median(abs(loss - middle) for loss in losses)
