"""Runs that wait for all of their nodes at once: in a queue of Kueue's, or as a scheduler's group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tessera_api.training_run_status import PodAttempts, RunPhase, TrainingRunStatus
from tessera_operator.core.queue import Admission, Queue, read_admission
from tessera_operator.core.run_decision import decide
from tessera_operator.core.run_status import run_status
from tessera_operator.manifests.gang import join, placed, pod_group, workload
from tessera_operator.manifests.run import Place, worker_pod
from tessera_operator.profiles import Gang, Profile
from tests.unit.operator_world import ALL_COUNTED, a_run, a_start, a_view, an_answer, avoided, built, condition
from tests.unit.test_operator_manifests import GPU, OWNER, SETTINGS

QUEUED = a_run(queueName="team")
ADMITTED = Admission("uid-w", True, "", "Quota reserved in ClusterQueue all", 3)
WAITS = Admission("uid-w", False, "", "couldn't assign flavors: insufficient quota", 3)
BEFORE: dict[str, Any] = {
    **{"run": QUEUED, "start": None, "pods": (), "answer": None, "datasets": {"stdlib": built()}, "queues": True}
}
RUNNING: dict[str, Any] = {"run": QUEUED, "start": a_start(QUEUED), "queues": True}


def test_a_run_that_lacks_nothing_gets_in_the_queue_and_begins_when_it_is_admitted() -> None:
    first = decide(a_view(**BEFORE, queue=Queue(None)))
    waiting = decide(a_view(**BEFORE, queue=Queue(WAITS)))
    admitted = decide(a_view(**BEFORE, queue=Queue(ADMITTED)))

    assert (first.enqueue, first.begin) == (True, False)
    assert (waiting.enqueue, waiting.begin) == (False, False)
    assert waiting.blocked is not None
    assert waiting.blocked.reason == "Queued"
    assert waiting.blocked.message == "it waits in queue team: couldn't assign flavors: insufficient quota"
    assert (admitted.enqueue, admitted.begin, admitted.blocked) == (False, True, None)


def test_a_workload_that_is_evicted_before_the_start_has_begun_is_made_anew() -> None:
    evicted = replace(ADMITTED, evicted="preempted by urgent")

    gone = decide(a_view(**BEFORE, queue=Queue(evicted)))
    anew = decide(a_view(**BEFORE, queue=Queue(None)))

    assert (gone.begin, gone.enqueue, gone.release) == (False, False, True)
    assert (anew.enqueue, anew.release) == (True, False)


def test_a_run_that_lacks_something_waits_in_no_queue() -> None:
    plan = decide(a_view(**{**BEFORE, "datasets": {"stdlib": None}}, queue=Queue(WAITS)))

    assert (plan.enqueue, plan.begin, plan.release) == (False, False, True)


def test_a_queue_that_nobody_keeps_is_a_mistake_with_a_remedy() -> None:
    plan = decide(a_view(**{**BEFORE, "queues": False}))

    assert plan.blocked is not None
    assert plan.blocked.reason == "NoQueues"
    assert "spec.queueName is team, and this installation has no queues" in plan.blocked.message


@pytest.mark.parametrize(
    ("run", "queue", "why"),
    [
        (QUEUED, Queue(replace(ADMITTED, evicted="preempted by urgent")), "Kueue takes the nodes back: preempted"),
        (QUEUED, Queue(replace(ADMITTED, admitted=False)), "Kueue has taken the admission back"),
        (QUEUED, Queue(None), "its Workload has been deleted"),
        (QUEUED, Queue(replace(ADMITTED, nodes=2)), "3 nodes are wanted and 2 are admitted: it queues for more"),
    ],
    ids=["evicted", "not admitted any more", "deleted by hand", "scaled up"],
)
def test_a_run_whose_nodes_are_taken_back_stops_with_a_commit_and_loses_no_node(
    run: Any, queue: Queue, why: str
) -> None:
    plan = decide(a_view(**{**RUNNING, "run": run}, queue=queue))

    assert plan.stop.startswith(why)
    assert (plan.delete, plan.make, avoided(plan)) == ((), (), {})


def test_when_it_has_stopped_its_place_is_given_back_and_the_next_start_waits() -> None:
    evicted = Queue(replace(ADMITTED, evicted="preempted"))
    stopped = decide(a_view(**RUNNING, queue=evicted, answer=an_answer(closed="stopped at step 40")))
    assert len(stopped.delete) == 5

    view = a_view(**RUNNING, queue=evicted, pods=(), answer=None)
    plan = decide(view)

    assert (plan.release, plan.start, plan.over) == (True, 2, None)
    status = run_status(view, plan)
    assert status.phase is RunPhase.PENDING
    prepared = next(each for each in status.conditions or () if each.type == "Prepared")
    assert (prepared.reason, prepared.message) == ("Evicted", "Kueue takes the nodes back: preempted")
    following = TrainingRunStatus(start=2, attempts=(PodAttempts(slot="n0", attempt=1),))
    again = decide(a_view(**{**BEFORE, "run": a_run(following, queueName="team")}, queue=Queue(None)))
    assert again.enqueue


def test_an_admitted_run_goes_its_way() -> None:
    plan = decide(a_view(**RUNNING, queue=Queue(ADMITTED), answer=ALL_COUNTED))

    assert (plan.stop, plan.make, plan.delete, plan.release) == ("", (), (), False)


def test_the_end_of_a_run_and_its_suspension_give_its_place_back() -> None:
    ended = TrainingRunStatus(conditions=(condition("Succeeded", "True"),))
    over = decide(a_view(**{**RUNNING, "run": a_run(ended, queueName="team")}, queue=Queue(ADMITTED), pods=()))
    asleep = a_run(queueName="team", suspend=True)
    suspended = decide(a_view(**{**RUNNING, "run": asleep}, queue=Queue(ADMITTED), pods=()))

    assert over.release
    assert (suspended.release, suspended.suspended, suspended.start) == (True, True, 2)


def test_a_workload_asks_for_all_nodes_the_spares_too_and_for_the_coordinators() -> None:
    settings = SETTINGS.model_copy(update={"profiles": {"cpu": GPU}})
    document = workload(OWNER, a_run(queueName="team", priorityClassName="urgent"), 2, settings, 1000)
    nodes, coordinators = document["spec"]["podSets"]

    assert document["metadata"]["name"] == "gpt-start-2"
    assert document["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert (nodes["count"], coordinators["count"]) == (3, 2)
    pod = nodes["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    assert pod["nodeSelector"] == {"kind": "h100"}
    assert (document["spec"]["queueName"], document["spec"]["priority"]) == ("team", 1000)


def test_a_workload_is_read_as_kueue_writes_it() -> None:
    sets = workload(OWNER, QUEUED, 1, SETTINGS, None)["spec"]["podSets"]
    document = {
        "metadata": {"uid": "u"},
        "spec": {"podSets": sets},
        "status": {
            "admission": {
                "clusterQueue": "all",
                "podSetAssignments": [
                    {"name": "nodes", "flavors": {"cpu": "spot", "nvidia.com/gpu": "h100", "memory": "spot"}},
                    {"name": "coordinators", "flavors": {"cpu": "small"}},
                ],
            },
            "conditions": [
                {"type": "QuotaReserved", "status": "True", "message": "Quota reserved in ClusterQueue all"},
                {"type": "Admitted", "status": "True", "message": "admitted"},
                {"type": "Evicted", "status": "False", "message": "QuotaReserved"},
            ],
        },
    }

    found = read_admission(document)

    assert found == Admission("u", True, "", "Quota reserved in ClusterQueue all", 3, ("h100", "spot"), ("small",))
    assert read_admission({**document, "status": {}}).message == "no word from Kueue yet"


def test_pods_go_to_the_kinds_of_nodes_that_were_assigned() -> None:
    flavor = {"spec": {"nodeLabels": {"pool": "spot"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}}

    settings = SETTINGS.model_copy(update={"profiles": {"h100": Profile(node_selector={"kind": "h100"})}})

    started = placed(settings, "h100", [flavor], [{"spec": {"nodeLabels": {"pool": "small"}}}])

    profile = started.profiles["h100"]
    assert profile.node_selector == {"kind": "h100", "pool": "spot"}
    assert profile.tolerations == ({"key": "spot", "operator": "Exists"},)
    assert started.coordinator_node_selector == {"pool": "small"}


def test_no_other_scheduler_no_group() -> None:
    pod = worker_pod(OWNER, a_start(), SETTINGS, GPU, Place("n0", 0))

    assert pod_group(OWNER, a_run(), 1, Gang.NONE) is pod_group(OWNER, a_run(), 1, Gang.KUEUE) is None
    assert join(pod, "gpt", 1, SETTINGS) == pod


@pytest.mark.parametrize("gang", [Gang.VOLCANO, Gang.COSCHEDULING, Gang.NATIVE])
def test_a_group_has_as_many_as_the_run_can_begin_with_and_its_pods_name_it(gang: Gang) -> None:
    run = a_run(nodes={"count": 4, "min": 2, "max": 4, "spares": 1}, queueName="team")
    settings = SETTINGS.model_copy(update={"gang": gang, "scheduler_name": "gangs"})
    document = pod_group(OWNER, run, 3, gang)
    pod = join(worker_pod(OWNER, a_start(run), settings, GPU, Place("n0", 0)), "gpt", 3, settings)
    assert document is not None
    spec, metadata = document["spec"], pod["metadata"]

    assert document["metadata"]["name"] == "gpt-start-3"
    match gang:
        case Gang.VOLCANO:
            assert (spec["minMember"], spec["queue"]) == (2, "team")
            assert metadata["annotations"]["scheduling.k8s.io/group-name"] == "gpt-start-3"
        case Gang.COSCHEDULING:
            assert spec["minMember"] == 2
            assert metadata["labels"]["scheduling.x-k8s.io/pod-group"] == "gpt-start-3"
        case _:
            assert spec["podGroups"] == [{"name": "nodes", "policy": {"gang": {"minCount": 2}}}]
            assert pod["spec"]["workloadRef"] == {"name": "gpt-start-3", "podGroup": "nodes"}
    assert pod["spec"]["schedulerName"] == "gangs"
