"""Orders to park: a stop of the run, or a change of its nodes. Owns which order is in force and whether the trainers
have parked and committed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera_api.exit_codes import ExitCode
from tessera_api.log import Open
from tessera_api.messages import StopOrder
from tessera_coordinator.core.effects import Close, Effect, Send


@dataclass(frozen=True)
class Order:
    """Trainers are to park at a step boundary and commit within `seconds`."""

    reason: str
    seconds: float
    given: float
    """When it was given, by the coordinator's clock."""
    stops_run: bool

    def left(self, now: float) -> float:
        """Seconds until the deadline; never more than were given, however the clock's difference rounds."""
        return max(0.0, self.seconds - (now - self.given))


class Parking:
    """A stop outranks a change of nodes; a change that is not obeyed in time is forgotten and may be ordered again."""

    def __init__(self) -> None:
        self.order: Order | None = None
        self._parked = -1
        self._committed = -1

    @property
    def stopping(self) -> bool:
        """Whether the run is to stop."""
        return self.order is not None and self.order.stops_run

    @property
    def changing(self) -> bool:
        """Whether the generation was asked to make way for one of other nodes."""
        return self.order is not None and not self.order.stops_run

    @property
    def step(self) -> int:
        """The step at which the trainers parked; -1: they have not."""
        return self._parked

    def stop(self, reason: str, seconds: float, now: float) -> None:
        """The run is to stop."""
        self.order = Order(reason, seconds, now, True)

    def change(self, reason: str, seconds: float, now: float) -> None:
        """The generation is to make way for one of other nodes."""
        self.order = Order(reason, seconds, now, False)

    def generation_began(self, committed: int) -> None:
        """Nobody has parked yet; what is safe is the checkpoint of step `committed`. A change of nodes is done, a stop
        is not."""
        self._parked, self._committed = -1, committed
        if self.changing:
            self.order = None

    def parked(self, step: int) -> None:
        """The trainers stand still at this step."""
        self._parked = max(self._parked, step)

    def committed(self, step: int) -> None:
        """The log has a commit of this generation at `step`."""
        self._committed = max(self._committed, step)

    def obeyed(self) -> bool:
        """Parked, and what was computed is safe. Whether the order is still known does not matter: it was one of a
        coordinator that is gone, or a change that was no longer waited for."""
        return 0 <= self._parked <= self._committed

    def orders(self, generation: Open | None, nodes: Iterable[str], now: float) -> list[Effect]:
        """The order in force, to these nodes of the generation."""
        if self.order is None or generation is None:
            return []
        reason, seconds = self.order.reason, self.order.left(now)
        order = StopOrder(generation=generation.generation, reason=reason, deadline_seconds=seconds)
        return [Send(node, order) for node in nodes]

    def overdue(self, now: float) -> list[Effect]:
        """How the run ends whose order to stop was not obeyed in time; a change that was not is forgotten."""
        if self.order is None or self.order.left(now) > 0.0:
            return []
        if self.order.stops_run:
            words = f"stopped: {self.order.reason}; not committed in time, the last commit stands"
            return [Close(words, ExitCode.STOPPED)]
        self.order = None
        return []
