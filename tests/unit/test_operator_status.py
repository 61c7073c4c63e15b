"""What the resource shows of a run."""

from __future__ import annotations

from dataclasses import replace

from tessera_api.resource import Condition
from tessera_api.training_run_status import AvoidedNode, PodAttempts, RunPhase, ShownIncident, TrainingRunStatus
from tessera_operator.core.run_decision import decide
from tessera_operator.core.run_status import run_status, worth_writing
from tessera_operator.core.view import View
from tests.unit.operator_world import ALL_COUNTED, NOW, PODS, a_run, a_view, an_answer, condition

SAID = TrainingRunStatus(
    conditions=(condition("Running", "True", "Running", "all is well"),),
    phase=RunPhase.RUNNING,
    step="40/97",
    loss="3.1000",
    tokens_per_second="1.9k",
    nodes="2/2",
    active_nodes=2,
    restarts=1,
    goodput="0.900",
    eta="3m1s",
    incidents=(ShownIncident(number=1, cause="lost", detected="2026-09-21T14:00:00Z"),),
)


def shown(view: View) -> TrainingRunStatus:
    return run_status(view, decide(view))


def found(status: TrainingRunStatus, kind: str) -> Condition:
    return next(c for c in status.conditions or () if c.type == kind)


def test_a_run_shows_what_its_coordinator_says_and_what_the_operator_counted() -> None:
    before = TrainingRunStatus(
        attempts=(PodAttempts(slot="n0", attempt=0), PodAttempts(slot="n1", attempt=2)),
        avoided=(AvoidedNode(node="host-n9", since="2026-09-21T14:13:20Z"),),
    )
    pods = (*PODS[:3], replace(PODS[3], name="gpt-n1-2", attempt=2), PODS[4])

    status = shown(a_view(run=a_run(before), pods=pods, answer=replace(ALL_COUNTED, status=SAID)))

    assert (status.phase, status.step, status.loss, status.nodes) == (RunPhase.RUNNING, "40/97", "3.1000", "2/2")
    assert status.incidents == SAID.incidents
    assert status.attempts == (PodAttempts(slot="n1", attempt=2),)  # the first pods need no mention
    assert status.avoided == before.avoided
    assert status.age == "6m40s"
    assert status.observed_generation == 1
    assert found(status, "Running").message == "all is well"
    assert found(status, "Reporting").status == "True"


def test_a_coordinator_that_does_not_answer_leaves_the_last_numbers_and_says_so() -> None:
    before = SAID.model_copy(update={"conditions": None})

    status = shown(a_view(run=a_run(before), answer=None))

    assert (status.phase, status.step) == (RunPhase.RUNNING, "40/97")
    assert found(status, "Reporting").reason == "Silent"


def test_a_pod_without_a_place_is_told_with_the_schedulers_words() -> None:
    waiting = replace(PODS[4], phase="Pending", node=None, message="0/4 nodes are available")

    placed = found(shown(a_view(pods=(*PODS[:4], waiting))), "Placed")

    assert (placed.status, placed.reason) == ("False", "Unschedulable")
    assert placed.message == "1 of 5 pods wait for a node: 0/4 nodes are available"


def test_a_mistake_stands_in_the_condition_and_the_phase_stays_pending() -> None:
    status = shown(a_view(start=None, pods=(), answer=None, datasets={"stdlib": None}))

    assert status.phase is RunPhase.PENDING
    assert found(status, "Prepared").reason == "DatasetMissing"
    assert found(status, "Running").message == found(status, "Prepared").message


def test_an_end_stands_in_phase_and_condition_and_nothing_is_left_to_wait_for() -> None:
    won = SAID.model_copy(update={"conditions": (condition("Succeeded", "True"),)})

    status = shown(a_view(answer=an_answer(closed="complete", status=won)))

    assert status.phase is RunPhase.SUCCEEDED
    assert (found(status, "Succeeded").status, found(status, "Succeeded").message) == ("True", "complete")
    assert status.eta is None


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    first = shown(a_view(answer=replace(ALL_COUNTED, status=SAID)))
    later = shown(a_view(run=a_run(first), now=NOW + 60, answer=replace(ALL_COUNTED, status=SAID)))

    assert [c.last_transition_time for c in later.conditions or ()] == ["2026-09-21T14:13:20Z"] * 6


def test_numbers_alone_are_less_worth_writing_than_what_stands() -> None:
    first = shown(a_view(answer=replace(ALL_COUNTED, status=SAID)))
    numbers = first.model_copy(update={"step": "41/97", "age": "6m41s"})
    stands = first.model_copy(update={"restarts": 2})

    assert worth_writing(first, first) == (False, False)
    assert worth_writing(first, numbers) == (True, False)
    assert worth_writing(first, stands) == (True, True)


def test_a_run_that_has_begun_is_starting_until_its_coordinator_is_heard() -> None:
    pending = TrainingRunStatus(phase=RunPhase.PENDING)

    assert shown(a_view(run=a_run(pending), answer=None)).phase is RunPhase.STARTING


def test_a_coordinator_that_ends_again_and_again_is_told_with_its_last_words() -> None:
    failing = replace(PODS[0], exit_code=69, message="storage does not serve: no such bucket")

    reporting = found(shown(a_view(pods=(failing, *PODS[1:]), answer=None)), "Reporting")

    assert reporting.reason == "Failing"
    assert reporting.message == "the coordinator ended with 69: storage does not serve: no such bucket"


def test_a_suspended_run_says_that_it_sleeps_and_how_it_goes_on() -> None:
    asked = a_run(TrainingRunStatus(start=2, step="40/97"), suspend=True)

    stopping = shown(a_view(run=asked, answer=replace(ALL_COUNTED, status=SAID)))
    asleep = shown(a_view(run=asked, start=None, pods=(), answer=None))

    assert (found(stopping, "Suspended").status, found(stopping, "Suspended").reason) == ("False", "Stopping")
    assert (asleep.phase, asleep.step, asleep.start) == (RunPhase.SUSPENDED, "40/97", 2)
    assert found(asleep, "Suspended").status == "True"


def test_a_run_that_succeeded_has_done_all_its_steps_whatever_was_heard_last() -> None:
    before = TrainingRunStatus(step="93/97", phase=RunPhase.RUNNING)
    ended = replace(PODS[0], phase="Succeeded", exit_code=0)

    status = shown(a_view(run=a_run(before), pods=(ended, *PODS[1:]), answer=None))

    assert (status.phase, status.step) == (RunPhase.SUCCEEDED, "97/97")
