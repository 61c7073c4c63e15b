"""Drills of the API server: whose passes are hurt, and for how long."""

from __future__ import annotations

import pytest

from tessera_api.drill import Drill, Fault
from tessera_api.training_run_status import DrillResult, ShownDrill
from tessera_operator.core.api_drill import ApiDrills

AWAY = Drill(identity="a1", fault=Fault.API_AWAY, seconds=10)


def shown(drill: Drill, result: DrillResult = DrillResult.RUNS) -> tuple[ShownDrill, ...]:
    return (ShownDrill(identity=drill.identity, fault=drill.fault, result=result),)


def test_the_run_that_asked_is_hurt_for_the_drills_seconds_and_no_other() -> None:
    drills = ApiDrills()
    drills.asked("run", AWAY, shown(AWAY), 100.0)

    assert [drills.hurts("run", now) for now in (100.0, 109.9, 110.0)] == [Fault.API_AWAY, Fault.API_AWAY, None]
    assert (drills.hurts("other", 101.0), drills.hurts(None, 101.0)) == (None, None)


@pytest.mark.parametrize(
    ("drill", "of_status"),
    [
        (None, ()),
        (AWAY, ()),
        (AWAY, shown(AWAY.model_copy(update={"identity": "a0"}))),
        (AWAY, shown(AWAY, DrillResult.KEPT)),
        (Drill(identity="a1", fault=Fault.NODE_KILL), shown(Drill(identity="a1", fault=Fault.NODE_KILL))),
    ],
)
def test_what_the_coordinator_has_not_begun_or_is_not_the_operators_hurts_nobody(
    drill: Drill | None, of_status: tuple[ShownDrill, ...]
) -> None:
    drills = ApiDrills()
    drills.asked("run", drill, of_status, 100.0)

    assert drills.hurts("run", 100.0) is None


def test_a_drill_is_done_once_though_it_is_asked_for_by_every_pass_and_the_next_one_has_its_own_time() -> None:
    drills, slow = ApiDrills(), Drill(identity="a2", fault=Fault.API_SLOW, seconds=5)
    for now in (100.0, 105.0, 111.0):
        drills.asked("run", AWAY, shown(AWAY), now)
    assert drills.hurts("run", 111.0) is None

    drills.asked("run", slow, shown(slow), 120.0)
    assert (drills.hurts("run", 124.0), drills.hurts("run", 125.0)) == (Fault.API_SLOW, None)


def test_a_run_that_is_gone_is_forgotten() -> None:
    drills = ApiDrills()
    drills.asked("run", AWAY, shown(AWAY), 100.0)
    drills.forget("run")

    assert drills.hurts("run", 101.0) is None
