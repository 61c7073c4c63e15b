"""A story of a node that is drained: what is known beforehand costs no step."""

import pytest

from tests.e2e.installation import Installation, step_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


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
