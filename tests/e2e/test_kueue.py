"""Runs in a queue of the genuine Kueue: it admits, it takes nodes back for a more urgent run, it admits again.

A real API server and Kueue's own controller; what kubelets and coordinators would do is done by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessera_operator.profiles import Gang, Profile
from tessera_operator.reconcile import BUILD, RUN, Reconciler
from tessera_operator.wakes import Key
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.go_programs import Programs, ProgramsUnavailable, build_programs, module_source
from tests.unit.operator_world import RUN as A_RUN
from tests.unit.operator_world import an_answer
from tests.unit.test_operator_builds import BUILD as A_BUILD
from tests.wire import operator_passes as server
from tests.wire.test_queues import KUEUE, URGENT, pods, prepared, workloads

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]  # compiling Kueue takes minutes, once

TEAM = "kueued"
CRDS = Path(__file__).parents[2] / "crds"
SMALL = {"requests": {"cpu": "1", "memory": "1Gi"}}
QUOTA = [{"name": "cpu", "nominalQuota": "6"}, {"name": "memory", "nominalQuota": "6Gi"}]  # one run of five pods
QUEUES: list[dict[str, Any]] = [
    {"kind": "ResourceFlavor", "metadata": {"name": "spot"}, "spec": {"nodeLabels": {"pool": "spot"}}},
    {
        "kind": "ClusterQueue",
        "metadata": {"name": "all"},
        "spec": {
            "namespaceSelector": {},
            "queueingStrategy": "BestEffortFIFO",
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [
                {"coveredResources": ["cpu", "memory"], "flavors": [{"name": "spot", "resources": QUOTA}]}
            ],
        },
    },
    {"kind": "LocalQueue", "metadata": {"name": "team", "namespace": TEAM}, "spec": {"clusterQueue": "all"}},
]
UNDER_ETC = (
    "mkdir -p $1/upper/kueue/metrics/certs $1/work && cp $1/tls.crt $1/tls.key $1/upper/kueue/metrics/certs/"
    " && mount -t overlay overlay -o lowerdir=/etc,upperdir=$1/upper,workdir=$1/work /etc && shift && exec $@"
)
"""Kueue reads certificates at a fixed place, which it gets in a mount namespace of its own."""


@pytest.fixture(scope="module")
def kueue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server, Kueue at work, a queue with room for one run."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, for a mount namespace")
    try:
        programs = build_programs("kueue")
    except ProgramsUnavailable as reason:
        pytest.skip(str(reason))
    with control_plane(programs, tmp_path_factory.mktemp("plane")) as plane:
        definitions = [*CRDS.glob("*.yaml"), *(module_source(*KUEUE[:2]) / KUEUE[2]).glob("*.yaml")]
        for file in definitions:
            done = plane.kubectl("apply", "--server-side", "-f", str(file))
            assert done.returncode == 0, done.stderr
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        for namespace in ("kueue-system", TEAM):
            plane.kubectl("create", "namespace", namespace)
        with _controller(programs, plane, tmp_path_factory.mktemp("kueue")):
            for document in (URGENT, *QUEUES):
                done = plane.apply({"apiVersion": "kueue.x-k8s.io/v1beta2", **document})
                assert done.returncode == 0, done.stderr
            yield plane


@contextmanager
def _controller(programs: Programs, plane: ControlPlane, folder: Path) -> Iterator[None]:
    names = ("-subj", "/CN=kueue", "-keyout", "tls.key", "-out", "tls.crt")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names],
        cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    settings = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": "127.0.0.1:0"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": 19443, "certDir": str(folder)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "integrations": {"frameworks": ["batch/job"]},
    }
    (folder / "kueue.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    options = [f"--config={folder / 'kueue.yaml'}", f"--kubeconfig={plane.kubeconfig}"]
    program = [str(programs.kueue), *options, "--feature-gates=VisibilityOnDemand=false"]
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", UNDER_ETC, "sh", str(folder)]
    with (folder / "kueue.log").open("wb") as log:
        process = subprocess.Popen([*alone, *program], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (folder / "kueue.log").read_text(errors="replace")[-3000:]
    finally:
        process.terminate()
        process.wait(30)


def of_run(plane: ControlPlane, run: str) -> list[dict[str, Any]]:
    return [pod for pod in pods(plane, TEAM) if pod["metadata"]["labels"]["tessera.dev/run"] == run]


def bury(plane: ControlPlane, run: str) -> bool:
    """As kubelets do with pods that are being deleted; whether none is left."""
    for pod in of_run(plane, run):
        if "deletionTimestamp" in pod["metadata"]:
            plane.kubectl("delete", "pod", pod["metadata"]["name"], "--namespace", TEAM, "--force")
    return not of_run(plane, run)


def evicted(plane: ControlPlane, workload: str) -> bool:
    status = server.shown(plane, TEAM, "workloads.kueue.x-k8s.io", workload).get("status") or {}
    return any(each["type"] == "Evicted" and each["status"] == "True" for each in status.get("conditions") or [])


async def until(what: str, reconciler: Reconciler, key: Key, holds: Callable[[], bool]) -> None:
    """Pass after pass over a run, until something holds."""
    began = time.monotonic()
    while True:
        await reconciler.work(key)
        if holds():
            return
        assert time.monotonic() - began < 60, what
        await asyncio.sleep(0.3)


def test_an_urgent_run_takes_the_nodes_of_another_which_commits_and_goes_on_when_it_may(
    kueue: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, first, second = kueue, Key(RUN, TEAM, "gpt"), Key(RUN, TEAM, "high")
    changed = {"gang": Gang.KUEUE, "profiles": {"cpu": Profile(resources=SMALL)}, "coordinator_resources": SMALL}
    monkeypatch.setattr(server, "SETTINGS", server.SETTINGS.model_copy(update=changed))
    low = {**A_RUN, "spec": {**A_RUN["spec"], "queueName": "team"}}
    urgent = {**low, "metadata": {"name": "high"}, "spec": {**low["spec"], "priorityClassName": "urgent"}}

    async def story() -> None:
        server.apply(plane, TEAM, A_BUILD, low)
        async with server.operator(plane) as (reconciler, _, hearing):
            await reconciler.work(Key(BUILD, TEAM, "stdlib"))
            server.patch_status(plane, TEAM, "datasetbuild", "stdlib", server.BUILT)
            await until("the first is admitted", reconciler, first, lambda: len(of_run(plane, "gpt")) == 5)
            assert {pod["spec"]["nodeSelector"]["pool"] for pod in of_run(plane, "gpt")} == {"spot"}

            server.apply(plane, TEAM, urgent)
            await until("Kueue evicts it", reconciler, second, lambda: evicted(plane, "gpt-start-1"))
            assert of_run(plane, "high") == []
            hearing.said = an_answer(closed="stopped at step 40")
            await until("it gives its nodes back", reconciler, first, lambda: bury(plane, "gpt"))
            hearing.said = None
            await until("it waits again", reconciler, first, lambda: workloads(plane, TEAM)[0] == "gpt-start-2")
            assert prepared(plane, TEAM)["reason"] == "Queued"

            await until("the urgent one is admitted", reconciler, second, lambda: len(of_run(plane, "high")) == 5)
            plane.kubectl("delete", "trainingrun", "high", "--namespace", TEAM)
            plane.kubectl("delete", "workloads.kueue.x-k8s.io", "high-start-1", "--namespace", TEAM)  # the collector's
            await until("the first goes on", reconciler, first, lambda: len(of_run(plane, "gpt")) == 5)
            text = json.dumps([pod["metadata"]["name"] for pod in of_run(plane, "gpt")])
            assert "gpt-n0-1" in text

    server.run(story())
