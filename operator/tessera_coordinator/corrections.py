"""From a trainer's wish (go back, leave data out) to the log. Owns which wish can be fulfilled: an impossible one is
refused in words, since the log's own rules end a coordinator that breaks them."""

from __future__ import annotations

import time
from collections.abc import Callable

from tessera_api.log import Rewind, Skip
from tessera_api.messages import RewindRequest, SkipRequest
from tessera_coordinator.core.history import History
from tessera_coordinator.run_log import Ruled
from tessera_coordinator.scribe import Job, Scribe

Wish = RewindRequest | SkipRequest


class Corrections:
    """`told` is called with what became of a wish: with None once its entry stands, else with why it can't be."""

    def __init__(self, scribe: Scribe, term: Callable[[], int], told: Callable[[Wish, str | None], None]) -> None:
        self._scribe, self._term, self._told = scribe, term, told

    def ask(self, wish: Wish, acknowledge: Callable[[], None]) -> None:
        """A wish, perhaps said again. Acknowledged once its entry stands, or never will."""

        def make(history: History) -> Ruled | None:
            if stands(history, wish):
                return None
            why = refusal(history, wish)
            if why is not None:
                self._told(wish, why)
                return None
            return _entry(history, wish, self._term())

        def done(entry: Ruled | None) -> None:
            acknowledge()
            if entry is not None:
                self._told(wish, None)

        self._scribe.write(Job(make, done))


def stands(history: History, wish: Wish) -> bool:
    """Whether the log says it already."""
    match wish:
        case RewindRequest(generation=generation, from_step=start):
            return any((r.generation, r.from_step) == (generation, start) for r in history.rewinds)
        case SkipRequest(generation=generation, first=first, last=last):
            return any((s.generation, s.first, s.last) == (generation, first, last) for s in history.skips)


def refusal(history: History, wish: Wish) -> str | None:
    """Why the log cannot say it."""
    if wish.generation != history.generation:
        return f"generation {wish.generation} is over, {history.generation} is open"
    match wish:
        case RewindRequest(from_step=start, to_step=end, skip=skip):
            if history.reopen:
                return f"the run goes back to step {history.rewinds[-1].to_step} already"
            if end > start:
                return f"step {end} lies after step {start}"
            if skip is not None and skip.first >= skip.last:
                return f"positions {skip.first} to {skip.last} are none"
        case SkipRequest(first=first, last=last):
            if first >= last:
                return f"positions {first} to {last} are none"
    return None


def _entry(history: History, wish: Wish, term: int) -> Rewind | Skip:
    said = {**wish.model_dump(exclude={"kind"}), "term": term, "time": time.time()}
    if isinstance(wish, SkipRequest):
        return Skip.model_validate(said)
    to_step = max((step for step in history.steps() if step <= wish.to_step), default=0)
    return Rewind.model_validate({**said, "to_step": to_step})
