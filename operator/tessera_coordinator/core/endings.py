"""When does failing again and again end the run, and how long is waited before the next try? Three generations that
end at the same place, none with a new best step, end it; generations without any step follow each other ever slower."""

from __future__ import annotations

TRIES = 3
AT_ONCE = 2
"""So many generations in a row may end without a step and be followed at once: a loss in a start is nothing rare."""
LONGEST_PAUSE_SECONDS = 30.0


class Endings:
    """Counts generations that ended with the same traceback line and no step beyond the best before."""

    def __init__(self) -> None:
        self._place: str | None = None
        self._count = 0
        self._best_before = -1
        self._failure: str | None = None
        self._fruitless = 0
        """Generations in a row that ended without any step."""

    @property
    def pause_s(self) -> float:
        """How long to wait before the next generation is opened."""
        more = self._fruitless - AT_ONCE
        return min(LONGEST_PAUSE_SECONDS, 2.0 ** (more - 1)) if more > 0 else 0.0

    def begun(self, best_step: int) -> None:
        """A generation begins; `best_step` is the highest that any before it reached."""
        self._best_before, self._failure = best_step, None

    def failed(self, place: str, highest_step: int) -> None:
        """A trainer of the present generation failed by itself. The first one is the cause."""
        if self._failure is None:
            self._failure = place

    def over(self, highest_step: int) -> str | None:
        """The generation is over. Returns the remedy when it was one too many."""
        failure, self._failure = self._failure, None
        self._fruitless = self._fruitless + 1 if highest_step < 0 else 0
        if failure is None or highest_step > self._best_before:
            self._place, self._count = None, 0
        if failure is None:
            return None
        self._count = self._count + 1 if failure == self._place else 1
        self._place = failure
        if self._count < TRIES:
            return None
        return f"{TRIES} generations in a row ended without a new step: mend this, then start the run again: {failure}"
