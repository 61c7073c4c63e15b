"""Stories of the two coordinators: what a run notices when the leading one is gone, or cannot be reached."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.installation import Installation, step_of
from tests.e2e.leadership import generations, leader, longest_pause, put_on, stands_by

pytestmark = [pytest.mark.timeout(1200)]

PORT = 7400


@contextmanager
def cut_off(installed: Installation, run: str, coordinator: str) -> Iterator[None]:
    """No packet of the run's nodes reaches this coordinator; all else does."""
    pods = installed.pods(run)
    target = pods[coordinator]["status"]["podIP"]
    nodes = [pod for pod in pods.values() if pod["metadata"]["labels"]["tessera.dev/role"] == "worker"]
    ways = [(int(pod["spec"]["nodeName"].removeprefix("node")), pod["status"]["podIP"]) for pod in nodes]
    for node, source in ways:
        installed.cluster.block(node, source, target, PORT)
    try:
        yield
    finally:
        for node, source in ways:
            installed.cluster.block(node, source, target, PORT, blocked=False)


def test_the_leading_coordinators_node_dies_and_then_one_with_the_leader_and_rank_0(installed: Installation) -> None:
    """Story (j): nobody pauses for the first; the second finds neither operator nor API server, nor a spare."""
    run, scale = "story-j", ("-n", "tessera-system", "scale", "deploy/tessera-operator")
    installed.train(run, tokens="8M", count="3", min="2", max="3", spares="0")
    installed.wait("it trains", lambda: step_of(installed.status(run)) > 25, 300)
    node = installed.node_of(installed.rank_0(run))
    if installed.node_of(installed.coordinators(run)["c1"]) != node:
        put_on(installed, run, "c1", node, 3)
    installed.wait("one stands by", lambda: stands_by(installed, run, "c1", 3), 60)
    assert installed.node_of(installed.coordinators(run)["c0"]) == 0
    assert leader(installed, run)[0] == "c0"

    began = installed.now()
    installed.cluster.crash(0)
    installed.wait("the other leads", lambda: leader(installed, run)[0] == "c1", 60)
    taken = leader(installed, run)[1] - began
    installed.wait("its steps are shipped", lambda: installed.steps(run)[-1].time > began + taken + 10, 60)
    pause = longest_pause(installed.steps(run), began, began + taken + 10)
    assert generations(installed, run) == [3]
    assert taken <= 5 * 6

    installed.cluster.restart(0)
    installed.wait("the first stands by", lambda: stands_by(installed, run, "c0", 3), 180)
    installed.cluster.kubectl(*scale, "--replicas=0")
    installed.cluster.control.daemons.stop("apiserver")
    crashed = installed.now()
    installed.cluster.crash(node)
    installed.wait("the two that are left go on", lambda: generations(installed, run) == [3, 2], 100)
    installed.wait("their steps are shipped", lambda: installed.steps(run)[-1].generation == 2, 60)
    back = next(step.time for step in installed.steps(run) if step.generation == 2) - crashed
    installed.cluster.control.start_api_server()
    installed.cluster.kubectl(*scale, "--replicas=2")
    installed.cluster.restart(node)

    assert leader(installed, run)[0] == "c0"
    assert back <= 5 * 15
    usual = longest_pause(installed.steps(run)[10:30], 0.0, began)
    assert pause <= max(5 * usual, 2.0)
    installed.wait("status tells of it", lambda: bool(installed.status(run).get("incidents")), 120)
    assert len(installed.status(run)["incidents"]) == 1
    installed.kubectl("delete", "trainingrun", run, "--timeout=60s")
    print(f"the other led after {taken:.1f} s, steps at most {pause:.2f} s apart; then next step after {back:.1f} s")


def test_nothing_happens_to_a_run_whose_nodes_cannot_reach_its_coordinators_for_a_while(
    installed: Installation,
) -> None:
    """Story (k): first the leader's address alone is cut off from them, then that of the one that stands by too."""
    run = "story-k"
    installed.train(run, tokens="4M")
    installed.wait("it trains, with a spare", lambda: step_of(installed.status(run)) > 25, 300)
    installed.wait("one stands by", lambda: stands_by(installed, run, "c1", 3), 60)
    before = {name: pod["metadata"]["uid"] for name, pod in installed.pods(run).items()}
    coordinators = installed.coordinators(run)

    began = installed.now()
    with ExitStack() as cuts:
        for slot in ("c0", "c1"):
            cuts.enter_context(cut_off(installed, run, coordinators[slot]))
            installed.stays("the same leads", lambda: leader(installed, run)[0] == "c0", 15)
    healed = installed.now()
    reached = step_of(installed.status(run))
    installed.wait("it is heard of again", lambda: step_of(installed.status(run)) > reached + 5, 60)
    installed.wait("its steps are shipped", lambda: installed.steps(run)[-1].time > healed + 5, 60)

    steps = installed.steps(run)
    usual = longest_pause(steps[10:30], 0.0, began)
    assert longest_pause(steps, began, healed) <= max(5 * usual, 2.0)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert {name: pod["metadata"]["uid"] for name, pod in installed.pods(run).items()} == before
    status = installed.status(run)
    assert (status.get("incidents"), status.get("restarts", 0), status.get("avoided")) == (None, 0, None)
    assert generations(installed, run) == [2]
    installed.kubectl("delete", "trainingrun", run, "--timeout=60s")
    print(f"cut off for {healed - began:.0f} s")
