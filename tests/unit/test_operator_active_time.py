"""How long a run has had nodes, and what becomes of one that has had them for as long as it may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tessera_api.times import stamp
from tessera_api.training_run_status import TrainingRunStatus
from tessera_operator.core.active_time import ActiveTime, active_time
from tessera_operator.core.run_decision import Over, decide, may_stop
from tessera_operator.core.run_status import run_status, worth_writing
from tests.unit.operator_world import ALL_COUNTED, NOW, PODS, a_run, a_view, an_answer, condition

WAITING = tuple(replace(pod, phase="Pending", node=None) if pod.slot.startswith("n") else pod for pod in PODS)


def counted(seconds: int | None, ago: float | None) -> TrainingRunStatus:
    return TrainingRunStatus(active_seconds=seconds, active_at=None if ago is None else stamp(NOW - ago))


@pytest.mark.parametrize(
    ("status", "change", "after"),
    [
        (counted(None, None), {}, ActiveTime(0, stamp(NOW))),
        (counted(100, 10.0), {}, ActiveTime(110, stamp(NOW))),
        (counted(100, None), {}, ActiveTime(100, stamp(NOW))),
        (counted(100, 10.0), {"pods": WAITING}, ActiveTime(110, None)),
        (counted(100, None), {"pods": WAITING}, ActiveTime(100, None)),
        (counted(100, None), {"pods": ()}, ActiveTime(100, None)),
        (counted(100, 7200.0), {"answer": None}, ActiveTime(7300, stamp(NOW))),
        (counted(100, -5.0), {}, ActiveTime(100, stamp(NOW))),
    ],
    ids=[
        "it begins",
        "it goes on",
        "it has nodes again",
        "it has lost them",
        "it waits for them",
        "it is suspended",
        "the operator was away",
        "the clock was set back",
    ],
)
def test_time_counts_while_a_run_has_nodes(
    status: TrainingRunStatus, change: dict[str, Any], after: ActiveTime
) -> None:
    assert active_time(a_view(run=a_run(status), **change), over=False) == after


def test_the_time_is_kept_in_the_status_and_is_no_news() -> None:
    view = a_view(run=a_run(counted(100, 10.0)))
    shown = run_status(view, decide(view))

    assert (shown.active_seconds, shown.active_at) == (110, stamp(NOW))
    later = replace(view, run=a_run(shown), now=NOW + 30)
    assert worth_writing(shown, run_status(later, decide(later))) == (True, False)


def test_a_run_that_has_had_its_time_commits_and_has_then_failed() -> None:
    late = a_run(counted(3590, 10.0), activeDeadlineSeconds=3600)
    words = "it has been active for 3600 s, and spec.activeDeadlineSeconds is 3600"

    stopping = decide(a_view(run=late))
    ended = decide(a_view(run=late, answer=an_answer(closed="stopped at step 40")))

    assert (stopping.stop, stopping.over, stopping.make, stopping.delete) == (words, None, (), ())
    assert ended.over == Over(
        False,
        "DeadlineExceeded",
        f"{words}: delete the run and create it with more time, and it goes on from its last commit",
    )


def test_a_run_has_its_time_to_the_last_second() -> None:
    assert decide(a_view(run=a_run(counted(3589, 10.0), activeDeadlineSeconds=3600))).stop == ""


@pytest.mark.parametrize(
    ("spec", "seconds", "evicted", "stands"),
    [
        ({}, 10**6, False, False),
        ({}, None, True, True),
        ({"suspend": True}, None, False, True),
        ({"activeDeadlineSeconds": 3600}, 3599, False, False),
        ({"activeDeadlineSeconds": 3600}, 3600, False, True),
    ],
)
def test_an_order_to_stop_stands_while_its_reason_does(
    spec: dict[str, Any], seconds: int | None, evicted: bool, stands: bool
) -> None:
    assert may_stop(a_run(counted(seconds, None), **spec), evicted) is stands


def test_a_run_without_a_deadline_runs_on() -> None:
    assert decide(a_view(run=a_run(counted(10**8, 10.0)), answer=ALL_COUNTED)).over is None


def test_what_a_training_run_said_last_is_no_news_and_that_it_recovers_is() -> None:
    def said(reason: str, message: str) -> TrainingRunStatus:
        return TrainingRunStatus(conditions=(condition("Running", "True", reason, message),))

    committed = said("Running", "Committed: step 20")

    assert worth_writing(committed, said("Running", "Committed: step 40")) == (True, False)
    assert worth_writing(committed, said("Recovering", "Committed: step 20")) == (True, True)
