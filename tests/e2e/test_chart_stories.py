"""Stories of the chart under a run in flight: it is removed, and comes back."""

from pathlib import Path

import pytest

from tests.e2e.installation import Installation, install, step_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_a_run_trains_on_while_the_chart_is_removed_and_is_looked_after_again_once_it_is_back(
    installed: Installation, tmp_path: Path
) -> None:
    """Nothing of the chart is left but what runs need; nothing waits for an operator that is gone."""
    run = "orphan"
    installed.train(run, tokens="8M")
    installed.wait("it trains", lambda: step_of(installed.status(run)) > 25, 300)
    before = {name: pod["metadata"]["uid"] for name, pod in installed.pods(run).items()}

    installed.cluster.helm("uninstall", "tessera", "--namespace", "tessera-system", "--wait")
    gone = installed.now()

    installed.wait("it trains on", lambda: installed.steps(run)[-1].time > gone + 20, 90)
    left = installed.cluster.kubectl(
        "get", "deployments,roles,configmaps,secrets", "-n", "tessera-system", "-o", "name"
    )
    assert set(left.split()) == {"secret/tessera-operator", "configmap/kube-root-ca.crt"}, "the runs' keys come from it"
    assert {name: pod["metadata"]["uid"] for name, pod in installed.pods(run).items()} == before
    # What is deleted now goes at once: no finalizer waits for anybody.
    installed.train("unborn", tokens="8M")
    installed.kubectl("delete", "trun", "unborn", "--timeout=30s")

    install(installed.cluster, tmp_path)

    installed.wait("it is heard again", lambda: step_of(installed.status(run)) > installed.steps(run)[0].number, 120)
    seen = step_of(installed.status(run))
    installed.wait("its status goes on", lambda: step_of(installed.status(run)) > seen, 120)
    assert {name: pod["metadata"]["uid"] for name, pod in installed.pods(run).items()} == before
    assert installed.status(run)["restarts"] == 0
    installed.kubectl("delete", "trun", run, "--timeout=60s")
