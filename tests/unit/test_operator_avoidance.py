"""Nodes of the cluster that fail a run again and again: counted, avoided for a time, never too many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tessera_api.exit_codes import ExitCode
from tessera_api.times import stamp
from tessera_api.training_run_status import NodeLosses, TrainingRunStatus
from tessera_operator.core.avoidance import FORGET_SECONDS, REST_SECONDS
from tessera_operator.core.run_decision import Plan, decide
from tessera_operator.core.run_status import run_status
from tessera_operator.core.view import Pod, View
from tests.unit.operator_world import HEALTHY, NOW, PODS, a_pod, a_run, a_view, an_answer, avoided

STAMP = stamp(NOW)


def lost_before(count: int, node: str = "host-n1", seconds_ago: float = 600.0) -> NodeLosses:
    return NodeLosses(node=node, count=count, last=stamp(NOW - seconds_ago))


def seen(*losses: NodeLosses, pods: tuple[Pod, ...] = PODS, **more: Any) -> View:
    """A run with a past, in full flight unless the pods say otherwise."""
    return a_view(run=a_run(TrainingRunStatus(losses=losses or None)), pods=pods, **more)


def with_n1(**change: Any) -> tuple[Pod, ...]:
    return tuple(a_pod("n1", **change) if pod.slot == "n1" else pod for pod in PODS)


def counted(plan: Plan) -> dict[str, int]:
    assert plan.hosts is not None
    return {node: entry.count for node, entry in plan.hosts.losses.items()}


def test_a_node_that_the_run_loses_is_counted_with_the_pod_that_is_given_up() -> None:
    view = seen(lost_before(1), answer=an_answer("gpt-n0-0", "gpt-n2-0", missing=("gpt-n1-0",)))
    plan = decide(view)

    assert counted(plan) == {"host-n1": 2}
    after = run_status(view, plan)
    again = decide(replace(view, run=a_run(after)))
    assert counted(again) == {"host-n1": 2}, "the pod was given up once"


def test_a_pod_that_ends_in_trouble_counts_against_its_node() -> None:
    assert counted(decide(seen(pods=with_n1(phase="Failed", exit_code=1)))) == {"host-n1": 1}


def test_a_machine_from_which_the_run_itself_has_sent_a_node_away_rests_at_once() -> None:
    plan = decide(seen(pods=with_n1(phase="Failed", exit_code=ExitCode.REPLACED)))

    assert counted(plan) == {"host-n1": 3}
    assert plan.hosts is not None
    assert plan.hosts.resting == {"host-n1": STAMP}
    assert [(made.slot, made.attempt) for made in plan.make] == [("n1", 1)]


def test_an_end_at_the_memory_limit_a_good_end_and_a_deleted_pod_say_nothing_about_the_node() -> None:
    for end in (
        {"phase": "Failed", "exit_code": 137, "out_of_memory": True},
        {"phase": "Succeeded", "exit_code": 0},
        {"phase": "Running", "deleting": True},
    ):
        assert counted(decide(seen(pods=with_n1(**end)))) == {}


def test_the_third_loss_has_a_node_that_reports_rest_for_an_hour() -> None:
    fails = with_n1(phase="Failed", exit_code=1)

    assert avoided(decide(seen(lost_before(1), pods=fails))) == {}
    assert avoided(decide(seen(lost_before(2), pods=fails))) == {"host-n1": STAMP}
    assert list(avoided(decide(seen(lost_before(3, seconds_ago=REST_SECONDS - 1))))) == ["host-n1"]
    assert avoided(decide(seen(lost_before(3, seconds_ago=REST_SECONDS)))) == {}


def test_losses_of_long_ago_are_forgotten() -> None:
    assert counted(decide(seen(lost_before(2, seconds_ago=FORGET_SECONDS - 1)))) == {"host-n1": 2}
    assert counted(decide(seen(lost_before(2, seconds_ago=FORGET_SECONDS)))) == {}


def test_of_the_nodes_that_fail_the_worst_quarter_rests_one_at_least() -> None:
    bad = [lost_before(3 + number, node=f"host-{number}") for number in range(5)]
    large = a_run(TrainingRunStatus(losses=tuple(bad)), nodes={"count": 4, "min": 1, "max": 4, "spares": 4})

    assert set(avoided(decide(seen(*bad)))) == {"host-4"}
    assert set(avoided(decide(a_view(run=large)))) == {"host-4", "host-3"}


def test_other_runs_do_not_avoid_what_this_one_has_had_enough_of() -> None:
    plan = decide(seen(lost_before(3)))

    assert plan.hosts is not None
    assert plan.hosts.gone == {}


def test_a_run_that_has_ended_or_sleeps_keeps_what_it_knows_of_nodes() -> None:
    asleep = a_view(run=a_run(TrainingRunStatus(losses=(lost_before(2),)), suspend=True), start=None, pods=())

    assert run_status(asleep, decide(asleep)).losses == (lost_before(2),)


def test_the_status_shows_who_is_avoided_and_why() -> None:
    view = seen(lost_before(3), machines=HEALTHY)
    status = run_status(view, decide(view))

    assert [entry.node for entry in status.avoided or ()] == ["host-n1"]
    assert status.losses == (lost_before(3),)
