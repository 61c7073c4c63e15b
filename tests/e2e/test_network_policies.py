"""A story of NetworkPolicies that are enforced: who may reach a run's pods, and that the run does not notice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.network_policies import enforced
from tests.e2e.installation import Installation, step_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]  # compiling the firewall takes minutes, once

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3); print('done')"
WAIT = "import time; time.sleep(3600)"
STREAMS, METRICS = "7400", "7401"


@contextmanager
def a_stranger(installed: Installation) -> Iterator[Installation]:
    """A pod in another namespace that has nothing to do with any run."""
    elsewhere = Installation(installed.cluster, "elsewhere")
    elsewhere.cluster.kubectl("create", "namespace", "elsewhere", check=False)
    container = {"name": "stranger", "image": installed.cluster.image("operator"), "command": ["python", "-c", WAIT]}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": spec}
    elsewhere.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    elsewhere.kubectl("wait", "pod/stranger", "--for=condition=Ready", "--timeout=60s")
    try:
        yield elsewhere
    finally:
        elsewhere.cluster.kubectl("delete", "namespace", "elsewhere", "--wait=false")


def test_a_stranger_reaches_no_pod_of_a_run_and_the_run_trains_as_ever(installed: Installation) -> None:
    """The same connections work without the policies: it is they that are seen to hold."""
    run = "walled"
    chart = ("upgrade", "tessera", "charts/tessera", "--namespace", "tessera-system", "--reuse-values", "--wait")
    with a_stranger(installed) as stranger:

        def reaches(pod: str, port: str) -> bool:
            address = installed.get("pod", pod)["status"]["podIP"]
            said = stranger.kubectl("exec", "stranger", "--", "python", "-c", CONNECT, address, port, check=False)
            tried = stranger.kubectl("exec", "stranger", "--", "python", "-c", "print('there')")
            assert tried.strip() == "there"
            return "done" in said

        try:
            installed.cluster.helm(*chart, "--set", "networkPolicies=true")
            installed.train(run, tokens="8M")
            installed.wait("it trains", lambda: step_of(installed.status(run)) > 25, 300)
            assert reaches(f"{run}-c0-0", STREAMS)

            with enforced(installed.cluster):
                installed.wait("the stranger is kept out", lambda: not reaches(f"{run}-c0-0", STREAMS), 60)
                assert not reaches(f"{run}-c1-0", STREAMS)
                assert reaches(f"{run}-c0-0", METRICS), "who scrapes may"
                installed.kubectl("delete", "pod", f"{run}-n0-0", "--wait=false")
                installed.wait("a spare takes over", lambda: installed.steps(run)[-1].generation > 1, 120)
                seen = step_of(installed.status(run))
                installed.wait("the operator hears of it", lambda: step_of(installed.status(run)) > seen + 50, 120)
                installed.wait("another is made", lambda: f"{run}-n0-1" in installed.pods(run), 60)
        finally:
            installed.kubectl("delete", "trun", run, "--timeout=60s", check=False)
            installed.cluster.helm(*chart, "--set", "networkPolicies=false")
