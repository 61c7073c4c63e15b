"""The operator's ear at the coordinators of runs."""

from __future__ import annotations

import asyncio

from tessera_api.keys import Keys
from tessera_api.orders import StopRun
from tessera_api.training_run_status import RunPhase, TrainingRunStatus
from tessera_operator.coordinators import Coordinators, readable

KEY = (Keys(b"k" * 32),)
NOBODY = "127.0.0.1:1"


def test_fields_of_a_newer_coordinator_are_passed_over_and_values_leave_the_status_before() -> None:
    before = TrainingRunStatus(phase=RunPhase.RUNNING)

    assert readable({"phase": "Starting", "hologram": 3}, before).phase is RunPhase.STARTING
    assert readable({"phase": "Dreaming"}, before) is before


def test_an_order_to_stop_is_withdrawn_with_the_wish() -> None:
    async def story() -> None:
        coordinators = Coordinators(lambda uid: None)
        coordinators.watch("run", NOBODY, KEY, may_stop=True)
        first = coordinators._watched["run"]
        coordinators.stop("run", StopRun(reason="suspend", deadline_seconds=60))
        coordinators.watch("run", NOBODY, KEY, may_stop=True)
        assert coordinators._watched["run"] is first

        coordinators.watch("run", NOBODY, KEY, may_stop=False)

        assert coordinators._watched["run"] is not first
        assert not coordinators._watched["run"].stopping
        await asyncio.sleep(0)
        assert first.task.cancelled()
        coordinators.forget("run")

    asyncio.run(story())
