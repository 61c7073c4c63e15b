"""Drills of the API server: for whose run it answers late, or not at all. Pure.

What must stay true: only the passes over the run that asked are hurt, once its coordinator has written the drill down,
which it does for a run that allows drills; a drill that has been done is not done again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera_api.drill import OF_THE_API_SERVER, Drill, Fault
from tessera_api.training_run_status import DrillResult, ShownDrill


@dataclass(frozen=True)
class _Done:
    drill: Drill
    until: float


class ApiDrills:
    """See the module. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._done: dict[str, _Done] = {}
        """By the run's uid, the latest one."""

    def asked(self, uid: str, drill: Drill | None, shown: Iterable[ShownDrill], now: float) -> None:
        """What the run's annotation asks for, and what its coordinator shows of drills."""
        if drill is None or drill.fault not in OF_THE_API_SERVER:
            return
        known = self._done.get(uid)
        if known is not None and known.drill.identity == drill.identity:
            return
        if any(one.identity == drill.identity and one.result is DrillResult.RUNS for one in shown):
            self._done[uid] = _Done(drill, now + drill.seconds)

    def hurts(self, uid: str | None, now: float) -> Fault | None:
        """What the run with this uid suffers now."""
        done = self._done.get(uid or "")
        return done.drill.fault if done is not None and now < done.until else None

    def forget(self, uid: str) -> None:
        """The run is gone."""
        self._done.pop(uid, None)
