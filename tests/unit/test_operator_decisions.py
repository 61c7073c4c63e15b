"""What the operator decides about a run: which pods are meant to be there, and which must go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tessera_api.resolved_run import Device
from tessera_api.training_run_status import AvoidedNode, PodAttempts, TrainingRunStatus
from tessera_operator.core.resolve import Surroundings, resolve_again
from tessera_operator.core.run_decision import Over, decide
from tessera_operator.core.slots import DeletePod, MakePod
from tessera_operator.core.view import Machine
from tessera_operator.observe import doubtful
from tessera_operator.profiles import Profile
from tests.unit.operator_world import (
    ALL_COUNTED,
    DEAD,
    HEALTHY,
    NOW,
    PODS,
    a_pod,
    a_run,
    a_start,
    a_view,
    an_answer,
    avoided,
    built,
    condition,
)

STAMP = "2026-09-21T14:13:20Z"  # NOW


def test_a_run_in_full_flight_needs_nothing() -> None:
    plan = decide(a_view())

    assert (plan.make, plan.delete, plan.over, plan.blocked) == ((), (), None, None)


def test_a_run_whose_datasets_are_built_is_begun() -> None:
    plan = decide(a_view(start=None, pods=(), answer=None, datasets={"stdlib": built()}))

    assert plan.begin
    assert plan.look_again == 0.0


def test_a_run_that_has_begun_gets_two_coordinators_and_a_pod_for_each_node_and_spare() -> None:
    plan = decide(a_view(pods=(), answer=None))

    assert plan.make == tuple(MakePod(slot, 0) for slot in ("c0", "c1", "n0", "n1", "n2"))


def test_a_pod_that_ended_is_replaced_at_once_and_its_log_stays() -> None:
    pods = (*PODS[:3], replace(PODS[3], phase="Failed", exit_code=1), PODS[4])

    plan = decide(a_view(pods=pods))

    assert plan.attempts["n1"] == PodAttempts(slot="n1", attempt=1, quick=0, since=STAMP)
    assert plan.make == (MakePod("n1", 1),)
    assert plan.delete == ()


def test_a_pod_that_is_being_deleted_is_replaced_at_once() -> None:
    plan = decide(a_view(pods=(*PODS[:4], replace(PODS[4], deleting=True))))

    assert plan.make == (MakePod("n2", 1),)


def test_pods_that_end_at_once_again_and_again_are_made_ever_more_slowly() -> None:
    waits = []
    for quick in range(3, 12):
        entry = PodAttempts(slot="n1", attempt=quick, quick=quick, since=STAMP)
        status = TrainingRunStatus(attempts=(entry,))
        plan = decide(a_view(run=a_run(status), pods=(*PODS[:3], PODS[4]), now=NOW))
        waits.append(0.0 if plan.make else plan.look_again)
        later = decide(a_view(run=a_run(status), pods=(*PODS[:3], PODS[4]), now=NOW + 61))
        assert later.make == (MakePod("n1", quick),)

    assert waits == [0.0, 2.0, 4.0, 8.0, 12.0, 12.0, 12.0, 12.0, 12.0]  # it looks every 12 s at the latest


def test_a_node_that_the_run_counts_no_more_is_replaced_elsewhere_and_its_host_avoided() -> None:
    answer = an_answer("gpt-n0-0", "gpt-n2-0", missing=("gpt-n1-0",))

    plan = decide(a_view(answer=answer))

    assert plan.make == (MakePod("n1", 1),)
    assert plan.delete == (DeletePod("gpt-n1-0", "uid-gpt-n1-0", False, "replaced"),)
    assert avoided(plan) == {"host-n1": STAMP}


def test_a_node_that_was_not_counted_for_a_moment_is_let_be() -> None:
    plan = decide(a_view(answer=an_answer("gpt-n0-0", "gpt-n2-0")))

    assert (plan.make, plan.delete, avoided(plan)) == ((), (), {})


def test_nobody_is_given_up_on_an_old_answer() -> None:
    answer = an_answer("gpt-n0-0", "gpt-n2-0", missing=("gpt-n1-0",), age=6.0)

    assert decide(a_view(answer=answer)).make == ()


def test_an_operator_that_was_away_gives_up_an_uncounted_pod_once_kubernetes_doubts_its_host() -> None:
    answer, machines = an_answer("gpt-n0-0", "gpt-n2-0"), {**HEALTHY, "host-n1": DEAD}

    assert decide(a_view(answer=answer, machines=machines)).make == (MakePod("n1", 1),)
    young = (*PODS[:3], replace(PODS[3], created=NOW - 60), PODS[4])
    assert decide(a_view(answer=answer, machines=machines, pods=young)).make == ()


REPLACED = TrainingRunStatus(
    attempts=(PodAttempts(slot="n1", attempt=1, since=STAMP),), avoided=(AvoidedNode(node="host-n1", since=STAMP),)
)
ZOMBIE = replace(PODS[3], deleting=True)


@pytest.mark.parametrize("machine", [DEAD, Machine(False, 1.0), Machine(True, None), None])
def test_a_dead_pod_leaves_the_api_once_kubernetes_doubts_its_host_too(machine: Machine | None) -> None:
    machines = {**HEALTHY, "host-n1": machine}
    answer = an_answer("gpt-n0-0", "gpt-n2-0")

    plan = decide(a_view(run=a_run(REPLACED), pods=(*PODS[:3], ZOMBIE, PODS[4]), machines=machines, answer=answer))

    assert plan.delete == (DeletePod("gpt-n1-0", "uid-gpt-n1-0", True, "node host-n1 is lost"),)


def test_no_pod_is_deleted_by_force_on_the_word_of_one_source() -> None:
    doubted = {**HEALTHY, "host-n1": DEAD}
    pods = (*PODS[:3], ZOMBIE, PODS[4])
    counted = decide(a_view(run=a_run(REPLACED), pods=pods, machines=doubted))
    healthy = decide(a_view(run=a_run(REPLACED), pods=pods, answer=an_answer("gpt-n0-0", "gpt-n2-0")))

    assert (counted.delete, healthy.delete) == ((), ())


def test_a_host_is_avoided_until_it_has_reported_for_a_while_after_its_loss() -> None:
    def after(renewed: float) -> dict[str, str]:
        machines = {**HEALTHY, "host-n1": Machine(True, 1.0, renewed)}
        return avoided(decide(a_view(run=a_run(REPLACED), machines=machines, now=NOW + 20)))

    assert after(NOW - 5) == after(NOW + 14) == {"host-n1": STAMP}
    assert after(NOW + 16) == {}


def test_a_pod_that_waits_for_a_host_which_is_avoided_no_more_is_made_anew() -> None:
    waiting = a_pod("n1", 1, phase="Pending", node=None, avoids=frozenset({"host-n1"}))
    view = a_view(run=a_run(REPLACED), pods=(*PODS[:3], waiting, PODS[4]))
    back = replace(view, now=NOW + 20, machines={**HEALTHY, "host-n1": Machine(True, 1.0, NOW + 19)})

    assert decide(view).make == ()
    assert decide(back).make == (MakePod("n1", 2),)
    assert decide(back).delete == (DeletePod("gpt-n1-1", "uid-gpt-n1-1", False, "replaced"),)


def test_a_pod_that_was_placed_on_a_host_that_died_before_it_began_is_made_anew() -> None:
    pods = (*PODS[:4], replace(PODS[4], phase="Pending"))

    plan = decide(a_view(pods=pods, machines={**HEALTHY, "host-n2": DEAD}))

    assert plan.make == (MakePod("n2", 1),)


def test_a_coordinator_is_replaced_when_it_is_silent_and_its_host_in_doubt_and_not_before() -> None:
    dead = {**HEALTHY, "host-c0": DEAD}

    assert decide(a_view(machines=dead)).make == ()
    assert decide(a_view(answer=replace(ALL_COUNTED, age=30.0))).make == ()
    assert decide(a_view(machines=dead, answer=replace(ALL_COUNTED, age=30.0))).make == (MakePod("c0", 1),)


def test_a_coordinator_that_the_leader_hears_no_more_is_replaced_once_its_host_is_in_doubt() -> None:
    alone = replace(ALL_COUNTED, coordinators=frozenset({"gpt-c1-0"}))

    assert decide(a_view(answer=alone)).make == ()
    assert decide(a_view(answer=alone, machines={**HEALTHY, "host-c0": DEAD})).make == (MakePod("c0", 1),)
    assert decide(a_view(answer=alone, machines={**HEALTHY, "host-c1": DEAD})).make == ()


def test_a_run_that_an_older_version_began_keeps_its_one_coordinator() -> None:
    start = a_start().model_copy(update={"coordinator": "gpt-coordinator-c0.team.svc.cluster.local:7400"})
    pods, answer = (PODS[0], *PODS[2:]), replace(ALL_COUNTED, coordinators=frozenset())

    plan = decide(a_view(start=start, pods=pods, answer=answer, machines={**HEALTHY, "host-c0": DEAD}))

    assert (plan.make, plan.delete) == ((), ())


def test_a_slot_that_is_no_longer_wanted_loses_its_pod() -> None:
    fewer = a_run(nodes={"count": 2, "min": 1, "max": 2, "spares": 0})

    plan = decide(a_view(run=fewer))

    assert plan.delete == (DeletePod("gpt-n2-0", "uid-gpt-n2-0", False, "no longer wanted"),)


def test_a_run_ends_as_its_coordinator_says() -> None:
    won = TrainingRunStatus(conditions=(condition("Succeeded", "True"),))
    lost = TrainingRunStatus(conditions=(condition("Succeeded", "False"),))

    assert decide(a_view(answer=an_answer(closed="complete", status=won))).over == Over(True, "Complete", "complete")
    assert decide(a_view(answer=an_answer(closed="a bug", status=lost))).over == Over(False, "Failed", "a bug")


def test_an_end_that_nobody_heard_is_read_from_the_coordinators_exit_code() -> None:
    def over(**ending: Any) -> Over | None:
        return decide(a_view(answer=None, pods=(a_pod("c0", **ending), *PODS[1:]))).over

    assert over(phase="Succeeded", exit_code=0) == Over(True, "Complete", "the run is complete")
    assert over(exit_code=70, message="line 3: a bug") == Over(False, "Failed", "line 3: a bug")
    assert over(exit_code=69) is None  # its storage was away: Kubernetes starts it again


def test_what_has_ended_stays_so() -> None:
    status = TrainingRunStatus(conditions=(condition("Succeeded", "True", "Complete", "done"),))

    plan = decide(a_view(run=a_run(status), answer=None, pods=()))

    assert plan.over == Over(True, "Complete", "done")
    assert plan.make == ()


def test_after_the_end_pods_that_never_trained_or_whose_host_is_lost_go() -> None:
    status = TrainingRunStatus(conditions=(condition("Succeeded", "True"),))
    pods = (
        a_pod("c0", phase="Succeeded", exit_code=0),
        a_pod("n0", phase="Succeeded", exit_code=0),
        a_pod("n1", phase="Pending", node=None),
        a_pod("n2", deleting=True),
    )

    plan = decide(a_view(run=a_run(status), pods=pods, machines={**HEALTHY, "host-n2": DEAD}, answer=None))

    assert [(gone.name, gone.force) for gone in plan.delete] == [("gpt-n2-0", True), ("gpt-n1-0", False)]


def test_after_the_end_a_pod_that_never_hears_of_it_goes_in_the_end() -> None:
    """It began to look for its coordinator when that had gone."""
    ended = condition("Succeeded", "True").model_copy(update={"last_transition_time": STAMP})
    view = a_view(run=a_run(TrainingRunStatus(conditions=(ended,))), pods=(a_pod("c1"), a_pod("n1")), answer=None)

    assert decide(replace(view, now=NOW + 29)).delete == ()
    gone = decide(replace(view, now=NOW + 31))
    assert [pod.name for pod in gone.delete] == ["gpt-c1-0", "gpt-n1-0"]
    assert gone.look_again == 5.0


def test_run_json_takes_everything_from_run_datasets_and_profile() -> None:
    start = a_start()

    assert (start.storage, start.total_steps) == ("s3://models/runs/gpt", 97)
    assert start.datasets["stdlib"].manifest == "s3://models/datasets/stdlib/manifest.json"
    assert start.coordinator == (
        "gpt-coordinator-c0.team.svc.cluster.local:7400,gpt-coordinator-c1.team.svc.cluster.local:7400"
    )


def test_a_host_that_another_run_lost_gets_no_pod_of_this_one() -> None:
    begun = a_view(pods=(), answer=None, lost_elsewhere={"host-9": STAMP})

    assert avoided(decide(begun)) == {"host-9": STAMP}
    back = replace(begun, now=NOW + 20, machines={"host-9": Machine(True, 1.0, NOW + 16)})
    assert avoided(decide(back)) == {}


def test_only_nodes_whose_state_decides_something_are_looked_at() -> None:
    zombie = a_pod("n1", deleting=True)
    waiting = a_pod("n2", phase="Pending")

    assert doubtful(PODS, ALL_COUNTED) == set()
    assert doubtful((*PODS[:3], zombie, waiting), ALL_COUNTED) == {"host-n1", "host-n2"}
    assert doubtful(PODS, an_answer("gpt-n0-0", "gpt-n1-0")) == {"host-n2"}
    assert doubtful(PODS, None) == doubtful(PODS, replace(ALL_COUNTED, age=6.0)) == set(HEALTHY)
    assert doubtful((a_pod("n0", phase="Succeeded"),), None) == set()


ASKED = a_run(suspend=True)


def test_a_run_that_is_to_be_suspended_is_told_to_stop_and_its_pods_stay_until_it_has() -> None:
    plan = decide(a_view(run=ASKED))

    assert (plan.stop, plan.suspended, plan.make, plan.delete) == ("the run is suspended", False, (), ())


def test_a_pod_that_has_not_begun_is_given_back_at_once() -> None:
    pods = (*PODS[:4], replace(PODS[4], phase="Pending", node=None))

    assert [gone.name for gone in decide(a_view(run=ASKED, pods=pods)).delete] == ["gpt-n2-0"]


@pytest.mark.parametrize(
    "change",
    [
        {"answer": an_answer(closed="stopped at step 40")},
        {"pods": (PODS[0], *(replace(pod, phase="Failed", exit_code=75) for pod in PODS[1:]))},
        {"answer": replace(ALL_COUNTED, age=61.0)},
        {"answer": None},
    ],
    ids=["it says so", "nobody trains", "nobody has heard of it for long", "nobody ever has"],
)
def test_a_run_that_has_stopped_gives_all_its_pods_back(change: dict[str, Any]) -> None:
    plan = decide(a_view(run=ASKED, **change))

    assert {gone.name for gone in plan.delete} == {"gpt-c0-0", "gpt-c1-0", "gpt-n0-0", "gpt-n1-0", "gpt-n2-0"}
    assert (plan.stop, plan.make, plan.over) == ("", (), None)


def test_the_next_start_has_a_number_and_pods_of_its_own() -> None:
    status = TrainingRunStatus(attempts=(PodAttempts(slot="n1", attempt=4),))

    plan = decide(a_view(run=a_run(status, suspend=True), pods=()))

    assert (plan.suspended, plan.start) == (True, 2)
    assert {slot: entry.attempt for slot, entry in plan.attempts.items()} == {
        "c0": 1,
        "c1": 1,
        "n0": 1,
        "n1": 5,
        "n2": 1,
    }


def test_a_suspended_run_wants_nothing_until_it_is_to_go_on() -> None:
    status = TrainingRunStatus(start=2)
    asleep = a_view(run=a_run(status, suspend=True), start=None, pods=(), answer=None)

    assert decide(asleep).suspended
    assert not decide(asleep).begin
    assert decide(replace(asleep, run=a_run(status))).begin  # its datasets are not asked for again


def test_a_later_start_has_the_nodes_of_now_and_everything_that_decides_bits_of_then() -> None:
    first = a_start()
    more = a_run(nodes={"count": 1, "min": 1, "max": 1, "spares": 0})

    around = Surroundings("elsewhere:1", {"python": "3.12"}, NOW, NOW + 100)
    second = resolve_again(first, more, Profile(device=Device.CUDA, threads=9), around)

    assert (second.start, second.started, second.created) == (2, NOW + 100, NOW)
    assert second.device is Device.CUDA
    assert second.run.spec.nodes.count == 1
    assert (second.datasets, second.threads, second.storage) == (first.datasets, first.threads, first.storage)
