"""A run whose number of nodes is changed while it runs, one whose pods end at their memory limit, one that has ended
and is to go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tessera_api.orders import Size
from tessera_api.times import stamp
from tessera_api.training_run import TrainingRun
from tessera_api.training_run_status import PodAttempts, TrainingRunStatus
from tessera_operator.core.run_decision import decide
from tessera_operator.core.slots import MakePod
from tests.unit.operator_world import ALL_COUNTED, NOW, PODS, a_pod, a_run, a_view, an_answer, condition

STAMP = stamp(NOW)


def test_a_node_that_is_no_longer_wanted_is_asked_to_leave_and_goes_once_it_trains_no_more() -> None:
    fewer = a_run(nodes={"count": 1, "min": 1, "max": 2, "spares": 1})
    training = replace(ALL_COUNTED, training=frozenset({"gpt-n0-0", "gpt-n2-0"}))

    asked = decide(a_view(run=fewer, answer=training))
    left = decide(a_view(run=fewer, answer=replace(training, training=frozenset({"gpt-n0-0"}))))

    assert (asked.size, asked.delete) == (Size(count=1, min=1, leaving=("gpt-n2-0",)), ())
    assert [(pod.name, pod.force) for pod in left.delete] == [("gpt-n2-0", False)]


def test_a_run_that_is_to_have_more_nodes_gets_pods_and_its_coordinator_is_told() -> None:
    more = decide(a_view(run=a_run(nodes={"count": 4, "min": 2, "max": 4, "spares": 1})))

    assert more.size == Size(count=4, min=2)
    assert more.make == (MakePod("n3", 0), MakePod("n4", 0))
    assert more.delete == ()


def test_another_number_of_processes_a_node_waits_for_the_next_start() -> None:
    assert decide(a_view(run=a_run(nodes={"count": 1, "min": 1, "max": 1, "processesPerNode": 2}))).size is None


def killed(attempt: int) -> tuple[TrainingRun, Any]:
    before = PodAttempts(slot="n1", attempt=attempt, quick=attempt, out_of_memory=attempt)
    pod = a_pod("n1", attempt, phase="Failed", exit_code=137, created=NOW - 5, out_of_memory=True)
    return a_run(TrainingRunStatus(attempts=(before,))), (*PODS[:3], pod, PODS[4])


def test_pods_that_end_at_their_memory_limit_before_any_step_end_the_run_with_the_remedy() -> None:
    (second, pods), (third, later) = killed(1), killed(2)

    assert decide(a_view(run=second, pods=pods)).attempts["n1"].out_of_memory == 2
    over = decide(a_view(run=third, pods=later)).over
    assert over is not None
    assert (over.succeeded, over.reason) == (False, "OutOfMemory")
    assert "3 pods of n1 in a row were killed at the memory limit of profile cpu" in over.message
    assert "lower training.unit" in over.message


def test_a_run_that_has_made_steps_is_not_ended_by_pods_at_their_memory_limit() -> None:
    run, pods = killed(2)
    answer = replace(ALL_COUNTED, status=TrainingRunStatus(step="7/97"))

    assert decide(a_view(run=run, pods=pods, answer=answer)).over is None


def test_a_run_is_deleted_once_its_time_after_the_end_is_over_and_not_before_its_end_is_written() -> None:
    ended = condition("Succeeded", "True").model_copy(update={"last_transition_time": STAMP})
    over = TrainingRunStatus(conditions=(ended,))
    view = a_view(run=a_run(over, ttlSecondsAfterFinished=600), pods=(), answer=None)

    waiting, gone = decide(replace(view, now=NOW + 590)), decide(replace(view, now=NOW + 601))

    assert (waiting.expired, waiting.look_again) == (False, 10.0)
    assert gone.expired
    said = an_answer(closed="complete", status=over)
    assert not decide(a_view(run=a_run(ttlSecondsAfterFinished=0), answer=said)).expired
    assert not decide(replace(view, run=a_run(over), now=NOW + 10**8)).expired
