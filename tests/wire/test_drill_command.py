"""`tessera drill --namespace` against a real API server; what operator and coordinator would write is written here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tessera_api.drill import Fault
from tessera_api.exit_codes import ExitCode
from tessera_cli.cluster_drill import drill
from tessera_cli.cluster_runs import ClusterRun
from tessera_cli.drilling import Order
from tessera_cli.refusal import Refused
from tests.cluster.control_plane import ControlPlane
from tests.unit.operator_world import RUN as A_RUN
from tests.wire.operator_passes import apply, patch_status, shown

LIMIT = 30.0
KEPT = {"result": "Kept", "detectSeconds": "0.31", "recoverySeconds": "1.12", "stepsLost": 3}


def command(plane: ControlPlane, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PYTHONPATH": os.pathsep.join(sys.path)}
    whole = [sys.executable, "-m", "tessera_cli", "drill", *words]
    return subprocess.Popen(
        whole, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def annotation(plane: ControlPlane, namespace: str) -> list[str]:
    """What is asked for, once it is."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        value = (
            shown(plane, namespace, "trainingrun", "gpt")["metadata"].get("annotations", {}).get("tessera.dev/drill")
        )
        if value is not None:
            return str(value).split()
    raise TimeoutError("nothing was asked for")


def allowed(**spec: Any) -> dict[str, Any]:
    return {**A_RUN, "spec": {**A_RUN["spec"], "drills": "Allowed", **spec}}


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (
            KEPT,
            ExitCode.DONE,
            [
                "detected after   0.31 s (promised: 5 s)",
                "next step after  1.12 s more (promised: 30 s)",
                "steps lost       3 (promised: 200 at most)",
                "kept",
            ],
        ),
        ({"result": "Broken"}, ExitCode.TROUBLE, ["BROKEN"]),
    ],
)
def test_the_command_asks_waits_and_tells_what_came_of_it(
    plane: ControlPlane, end: dict[str, Any], code: ExitCode, said: list[str]
) -> None:
    namespace = f"try-{end['result'].lower()}"
    apply(plane, namespace, allowed(checkpoint={"every": 100}))
    process = command(plane, "gpt", "-n", namespace, "--fault", "node-kill", "--node", "gpt-n1-0", "--seconds", "7")
    try:
        identity, fault, node, seconds = annotation(plane, namespace)
        assert (fault, node, seconds) == ("node-kill", "gpt-n1-0", "7")
        runs = {"identity": identity, "fault": fault, "node": node, "result": "Runs"}
        patch_status(plane, namespace, "trainingrun", "gpt", {"drills": [runs]})
        assert process.stdout is not None
        assert process.stdout.readline() == "node-kill is done to gpt-n1-0\n"
        patch_status(plane, namespace, "trainingrun", "gpt", {"drills": [runs | end]})
        out, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert (process.returncode, out.splitlines()[-len(said) :]) == (code, said)


@pytest.mark.parametrize(
    ("namespace", "documents", "words"),
    [
        ("nothing-here", [], "there is no TrainingRun gpt in namespace nothing-here"),
        ("no-drills", [A_RUN], "run gpt allows no drills: set spec.drills to Allowed"),
    ],
)
def test_what_cannot_be_drilled_is_refused_and_nothing_is_asked_for(
    plane: ControlPlane, namespace: str, documents: list[dict[str, Any]], words: str
) -> None:
    apply(plane, namespace, *documents)
    out, _ = command(plane, "gpt", "--namespace", namespace, "--fault", "node-kill").communicate(timeout=LIMIT)

    assert out == f"tessera: {words}\n"
    if documents:
        assert "annotations" not in shown(plane, namespace, "trainingrun", "gpt")["metadata"]


def test_a_drill_that_nobody_does_is_given_up(plane: ControlPlane) -> None:
    apply(plane, "idle", allowed())
    run = ClusterRun("idle", "gpt", kubeconfig=str(plane.kubeconfig))
    passed = [0.0]
    pause: Callable[[float], None] = lambda seconds: passed.__setitem__(0, passed[0] + seconds)  # noqa: E731

    with pytest.raises(Refused, match="no drill was done within 60 s: it has to train"):
        drill(run, Order(Fault.API_AWAY, None, 5.0), print, lambda: passed[0], pause)
    assert annotation(plane, "idle")[1:] == ["api-away", "5"]


def test_a_cluster_that_is_not_there_is_one_line(plane: ControlPlane) -> None:
    process = command(plane, "gpt", "-n", "team", "--context", "nowhere", "--fault", "node-kill")
    out, _ = process.communicate(timeout=LIMIT)

    assert (process.returncode, out.startswith("tessera: no cluster can be reached: ")) == (ExitCode.WRONG_INPUT, True)
