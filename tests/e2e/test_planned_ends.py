"""A story of a node that is drained: what is known beforehand costs no step."""

import os
import subprocess
import sys

import pytest

from tests.cluster.network import CONTROL, enter
from tests.e2e.installation import DATASET, NAMESPACE, Installation, a_run, step_of

pytestmark = [pytest.mark.timeout(900)]


@pytest.mark.long
def test_a_node_that_is_drained_hands_over_and_no_step_is_computed_twice(installed: Installation) -> None:
    """The node of rank 0: its pod has its grace to commit with the others, and the spare takes the place."""
    run = "drained"
    installed.train(run, tokens="8M")
    installed.wait("it trains", lambda: step_of(installed.status(run)) > 25, 300)
    pod = installed.rank_0(run)
    node = f"node{installed.node_of(pod)}"
    options = ("--pod-selector", f"tessera.dev/run={run},tessera.dev/role=worker", "--delete-emptydir-data", "--force")
    try:
        installed.cluster.kubectl("drain", node, *options, "--timeout=60s", limit=90.0)
        installed.wait("it goes on", lambda: installed.steps(run)[-1].generation == 2, 60)
        seen = installed.steps(run)[-1].number
        installed.wait("and on", lambda: installed.steps(run)[-1].number > seen + 50, 60)

        numbers = [step.number for step in installed.steps(run)]
        assert numbers == list(range(1, len(numbers) + 1))
        (first, second) = [entry for entry in installed.log(run) if entry["kind"] == "open"]
        assert pod in [member["node"] for member in first["members"]]
        assert pod not in [member["node"] for member in second["members"]]
        status = installed.status(run)
        assert (status.get("incidents"), status.get("losses")) == (None, None)
    finally:
        installed.cluster.kubectl("uncordon", node)
        installed.kubectl("delete", "trun", run, "--timeout=60s", check=False)


@pytest.mark.long
def test_a_node_whose_machine_is_about_to_end_hands_over_and_another_stands_ready_before_it_does(
    installed: Installation,
) -> None:
    """The machine bears the taint that Karpenter gives to one that it is about to take away."""
    run = "warned"
    installed.train(run, tokens="12M")
    installed.wait("it trains", lambda: step_of(installed.status(run)) > 25, 300)
    pod = installed.rank_0(run)
    node = f"node{installed.node_of(pod)}"
    try:
        installed.cluster.kubectl("taint", "node", node, "karpenter.sh/disrupted:NoSchedule")
        installed.wait("it goes on", lambda: installed.steps(run)[-1].generation == 2, 60)
        seen = installed.steps(run)[-1].number
        installed.wait("and on", lambda: installed.steps(run)[-1].number > seen + 50, 60)

        numbers = [step.number for step in installed.steps(run)]
        assert numbers == list(range(1, len(numbers) + 1))
        (_, second) = [entry for entry in installed.log(run) if entry["kind"] == "open"]
        assert pod not in [member["node"] for member in second["members"]]
        installed.wait("its pod is replaced", lambda: bool(installed.status(run).get("attempts")), 60)
        status = installed.status(run)
        assert [entry["node"] for entry in status["avoided"]] == [node]
        assert (status.get("incidents"), status.get("losses")) == (None, None)
    finally:
        installed.cluster.kubectl("taint", "node", node, "karpenter.sh/disrupted-", check=False)
        installed.kubectl("delete", "trun", run, "--timeout=60s", check=False)


def trains_on(installed: Installation, run: str) -> None:
    wanted = step_of(installed.status(run)) + 25
    installed.wait("it trains on", lambda: step_of(installed.status(run)) > wanted, 120)


@pytest.mark.long
def test_a_pod_that_is_new_to_a_compiled_run_has_what_the_others_compiled_before_it_trains(
    installed: Installation,
) -> None:
    run, fetched = "compiled", "compiled code of this run's nodes was fetched"
    installed.apply(
        DATASET, a_run(run, tokens="12M").replace("\n  training:\n", "\n  training:\n    compile: blocks\n")
    )
    try:
        installed.wait("it trains", lambda: step_of(installed.status(run)) > 5, 400)

        def stored() -> bool:
            return "compiled code is stored for new nodes" in installed.kubectl("logs", installed.rank_0(run))

        installed.wait("the code is stored", stored, 120)
        lost = installed.rank_0(run)
        before = installed.pods(run)[lost]["metadata"]["uid"]
        installed.kubectl("delete", "pod", lost, "--force", "--grace-period=0")

        def replaced() -> bool:
            pod = installed.pods(run).get(lost)
            return pod is not None and pod["metadata"]["uid"] != before

        installed.wait("another pod takes its place", replaced, 120)
        installed.wait("it has the code", lambda: fetched in installed.kubectl("logs", lost, check=False), 120)
        trains_on(installed, run)
    finally:
        installed.kubectl("delete", "trun", run, "--timeout=60s", check=False)


def by_command(installed: Installation, run: str, fault: str) -> str:
    """What `tessera drill` says."""
    config = installed.cluster.control.identities.folder / "admin.kubeconfig"
    words = ["drill", run, "--namespace", NAMESPACE, "--fault", fault]
    variables = {**os.environ, "KUBECONFIG": str(config), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*enter(CONTROL), sys.executable, "-m", "tessera_cli", *words]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=300)
    return done.stdout + done.stderr


def test_a_drill_on_the_cluster_is_asked_for_by_an_annotation_or_the_command_and_its_result_is_told(
    installed: Installation,
) -> None:
    run = "hurt"
    installed.apply(DATASET, a_run(run, tokens="12M").replace("\nspec:\n", "\nspec:\n  drills: Allowed\n"))
    try:
        installed.wait("it trains", lambda: step_of(installed.status(run)) > 25, 300)
        pod = installed.rank_0(run)
        for number, fault in enumerate(
            ("worker-kill", "node-kill", "agent-stop", "coordinator-kill", "api-slow", "api-away"), 1
        ):
            if number % 2 == 0:
                assert by_command(installed, run, fault).endswith("\nkept\n")
                trains_on(installed, run)
                continue
            installed.kubectl("annotate", "trun", run, f"tessera.dev/drill={number} {fault}", "--overwrite")

            def kept(number: int = number) -> bool:
                drills = installed.status(run).get("drills") or []
                return [one["result"] for one in drills if one["identity"] == str(number)] == ["Kept"]

            installed.wait(f"the promise of {fault} is kept", kept, 120)
            trains_on(installed, run)
        classes = [one["failure"] for one in installed.status(run)["incidents"]]
        assert classes == ["WorkerCrash", "LostNode"]
        assert pod in installed.status(run)["incidents"][0]["node"]
    finally:
        installed.kubectl("delete", "trun", run, "--timeout=60s", check=False)
