"""The operator's streams to the coordinators of the runs that live: one task a run, which keeps the newest answer.

What must stay true: an answer has an age, so that nobody acts on an old one; a coordinator that is away is tried for
as long as its run lives; whoever waits for a run is woken when more than its numbers has changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from tessera_api.drill import Drill
from tessera_api.keys import Keys
from tessera_api.messages import StatusAnswer
from tessera_api.orders import Places, Reaped, Size, StopRun, Warnings
from tessera_api.training_run_status import TrainingRunStatus
from tessera_coordinator.attendance import Attendance
from tessera_coordinator.client import Address, ControllerClient
from tessera_operator.core.run_status import NUMBERS
from tessera_operator.core.view import Answer

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
QUESTION_SECONDS = 1.0


@dataclass
class _Watched:
    client: ControllerClient
    task: asyncio.Task[None]
    keys: tuple[Keys, ...]
    """The run's, the newest first."""
    attendance: Attendance = field(default_factory=lambda: Attendance(PATIENCE_SECONDS))
    alive: frozenset[str] = frozenset()
    answer: StatusAnswer | None = None
    status: TrainingRunStatus = field(default_factory=TrainingRunStatus)
    missing: frozenset[str] = frozenset()
    heard: float = 0.0
    stopping: bool = False
    told: set[str] = field(default_factory=set)
    """Pods whose end the coordinator was told."""


class Coordinators:
    """By the uid of the run. `wake(uid)` is called when a run should be looked at."""

    def __init__(self, wake: Callable[[str], None]) -> None:
        self._wake = wake
        self._watched: dict[str, _Watched] = {}

    def watch(self, uid: str, addresses: str, keys: tuple[Keys, ...], may_stop: bool) -> None:
        """Listen to whoever leads a run from now on. An order to stop stands only while the run `may_stop`: a later
        coordinator, of a run that is to go on after all, is not told of it."""
        known = self._watched.get(uid)
        if known is not None and known.stopping and not may_stop:
            self.forget(uid)
        elif known is not None:
            known.keys = keys
            return
        here = Address.parse_all(addresses)
        client = ControllerClient(here, lambda: watched.keys, "tessera-operator", QUESTION_SECONDS)
        watched = _Watched(client, asyncio.get_running_loop().create_task(client.run()), keys)
        client.on_status = lambda answer: self._answered(uid, answer)
        client.on_stream = lambda connected: watched.attendance.interrupted()
        self._watched[uid] = watched

    def forget(self, uid: str) -> None:
        """The run is over or gone."""
        watched = self._watched.pop(uid, None)
        if watched is not None:
            watched.task.cancel()

    def alive(self, uid: str, pods: frozenset[str]) -> None:
        """Which pods of the run live, as far as Kubernetes knows."""
        if uid in self._watched:
            self._watched[uid].alive = pods

    def reaped(self, uid: str, report: Reaped) -> None:
        """A pod has ended: told to the coordinator."""
        watched = self._watched.get(uid)
        if watched is not None and report.node not in watched.told:
            watched.told.add(report.node)
            watched.client.reaped(report)

    def stop(self, uid: str, order: StopRun) -> None:
        """Order a run to stop; told again to a coordinator that is restarted, until the run is forgotten."""
        watched = self._watched.get(uid)
        if watched is not None:
            watched.stopping = True
            watched.client.stop(order)

    def order(self, uid: str, order: Size | Places | Warnings | Drill) -> None:
        """Order a run's number of nodes, or say where they are; told again to a coordinator that is restarted."""
        watched = self._watched.get(uid)
        if watched is not None:
            watched.client.order(order)

    def answer(self, uid: str) -> Answer | None:
        """The newest answer; None when there was none yet."""
        watched = self._watched.get(uid)
        if watched is None or watched.answer is None:
            return None
        said = watched.answer
        counted, age = frozenset((*said.active, *said.spare)), time.monotonic() - watched.heard
        training = said.active if "size" in watched.client.takes else ()
        there = frozenset(said.coordinators), frozenset(training)
        return Answer(watched.status, counted, watched.missing, said.closed, age, *there)

    def _answered(self, uid: str, answer: StatusAnswer) -> None:
        watched = self._watched.get(uid)
        if watched is None:
            return
        now = time.monotonic()
        before = (_stands(watched), watched.missing)
        watched.status = readable(answer.status, watched.status)
        watched.answer, watched.heard = answer, now
        present = frozenset((*answer.active, *answer.spare))
        watched.missing = frozenset(watched.attendance.answered(present, watched.alive, now))
        if (_stands(watched), watched.missing) != before:
            self._wake(uid)


def readable(document: dict[str, object], before: TrainingRunStatus) -> TrainingRunStatus:
    """A status as far as this version understands it: a newer coordinator may show fields that it does not know, and
    values; then the one before stands."""
    known = set(TrainingRunStatus.model_fields) | {field.alias for field in TrainingRunStatus.model_fields.values()}
    try:
        return TrainingRunStatus.model_validate({name: value for name, value in document.items() if name in known})
    except ValidationError as error:
        logger.warning("a status that this version does not understand: %s", error)
        return before


def _stands(watched: _Watched) -> object:
    answer = watched.answer
    without = watched.status.model_copy(update={name: None for name in NUMBERS})
    return (without, answer.active, answer.spare, answer.closed, answer.coordinators) if answer is not None else None
