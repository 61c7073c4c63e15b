"""How far the trainers of this node have come in the generation that it runs. Pure; owns what a beat says of it."""

from __future__ import annotations

from tessera_api.messages import Beat, Phase, Processes


class Progress:
    """Begins anew with each generation. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._step, self._at = -1, 0.0
        self._units = 0
        self._told: Processes | None = None
        self.phase = Phase.START

    def stepped(self, step: int, now: float) -> None:
        """A trainer completed a step; the first one to say so sets its time."""
        if step > self._step:
            self._step, self._at = step, now

    def progressed(self, units: int) -> None:
        """A trainer has computed so many micro-batches."""
        self._units = max(self._units, units)

    def beat(self, generation: int, processes: Processes, now: float, anew: bool) -> Beat:
        """The sign of life of this moment; generation 0: none. `anew`: nothing was said on this stream yet."""
        known, self._told = not anew and processes == self._told, processes
        return Beat(
            generation=generation,
            step=self._step,
            step_age=now - self._at if self._step >= 0 else None,
            units=self._units,
            phase=self.phase,
            processes=None if known else processes,
        )
