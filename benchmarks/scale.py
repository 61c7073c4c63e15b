"""Scale: one operator and a hundred runs of eight pods, on nodes that are not there.

python benchmarks/scale.py [--quick]: a JSON line a figure. etcd, API server and scheduler are genuine, KWOK plays the
kubelets of fake nodes, and a program of ours the coordinators: it speaks the real protocol and counts whichever pods
run. Needs root (names of coordinators are looked up in a hosts file of the operator's own mount namespace) and the
programs of `make cluster`. t0 of the creation is the moment before `kubectl apply`; an event is a pod that the API
server shows as failed, the decision the pod that takes its place, both as one watcher sees them. Quick: ten runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scale_world import TEAM, WORKERS, Json, Place, Pods, Writer, coordinators, loopback, watch  # noqa: E402

from tessera_operator import names  # noqa: E402
from tests.cluster.control_plane import control_plane  # noqa: E402
from tests.cluster.go_programs import build_programs  # noqa: E402
from tests.unit.operator_world import RUN  # noqa: E402
from tests.unit.test_operator_builds import BUILD  # noqa: E402
from tests.wire.operator_passes import BUILT  # noqa: E402

RUNS, NODES, EVENTS = 100, 60, 300
EVENTS_PER_SECOND = 5.0
HOME = "tessera-system"
LIMIT_SECONDS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("go") is None:
        print("no root or no Go here: its figures are left out", file=sys.stderr)
        return
    programs = build_programs("kwok")
    with tempfile.TemporaryDirectory() as folder, control_plane(programs, Path(folder)) as plane:
        asyncio.run(_measure(Place(programs, plane, Path(folder), 10 if options.quick else RUNS), options.quick))


async def _measure(place: Place, quick: bool) -> None:
    _prepare(place)
    with _program(place, "scheduler", _scheduler(place)), _program(place, "kwok", _kwok(place)):
        async with watch(place) as pods, coordinators(place, pods):
            with _program(place, "operator", _operator(place)) as operator:
                created = await _create(place, pods)
                _say(
                    f"{place.runs} runs of {WORKERS + 2} pods: all pods created",
                    [created],
                    "s",
                    "<= 60 s",
                    created <= 60,
                    quick,
                )
                await _until("all pods run", lambda: pods.running() == place.runs * (WORKERS + 2))
                await _until("the operator hears all", lambda: _heard(place) == place.runs)
                delays = await _fail_pods(place, pods, EVENTS if not quick else 20)
                late = sorted(delays)[min(len(delays) - 1, int(len(delays) * 0.99))]
                name = f"{place.runs} runs, {EVENTS_PER_SECOND:g} pods fail a second: event to decision"
                _say(f"{name}, median", delays, "s", None, None, quick)
                _say(f"{name}, p99", [late], "s", "<= 2 s", late <= 2, quick)
                resident = _resident(operator.pid)
                _say(
                    f"the operator's memory, {place.runs} running runs of {WORKERS + 2} pods",
                    [resident],
                    "MiB",
                    None,
                    None,
                    quick,
                )


def _say(name: str, values: list[float], unit: str, goal: str | None, holds: bool | None, quick: bool) -> None:
    said = {
        "name": name,
        "value": round(statistics.median(values), 3),
        "spread": [round(min(values), 3), round(max(values), 3)],
        "unit": unit,
        "goal": goal,
        "holds": holds,
        "quick": quick,
    }
    print(json.dumps(said), flush=True)


# ---- the world ------------------------------------------------------------------------------------------------------


def _prepare(place: Place) -> None:
    """Definitions, namespaces, fake nodes, a dataset that is built."""
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        _apply(place, [yaml.safe_load(file.read_text(encoding="utf-8"))])
    place.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for namespace in (TEAM, HOME, "kube-node-lease"):
        place.plane.kubectl("create", "namespace", namespace)
    _apply(place, [_node(number) for number in range(NODES)])
    # Put there at a node's creation; the controller that takes it away does not run here.
    place.plane.kubectl("taint", "nodes", "--all", "node.kubernetes.io/not-ready:NoSchedule-")
    _apply(place, [BUILD | {"metadata": {"name": "stdlib", "namespace": TEAM}}])
    where = ("datasetbuild", "stdlib", "--namespace", TEAM, "--subresource=status", "--type=merge")
    done = place.plane.kubectl("patch", *where, "-p", json.dumps({"status": BUILT}))
    assert done.returncode == 0, done.stderr


def _node(number: int) -> Json:
    resources = {"cpu": "64", "memory": "256Gi", "pods": "110"}
    labels = {"kubernetes.io/hostname": f"fake-{number}", "type": "kwok"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"fake-{number}", "labels": labels},
        "status": {"allocatable": resources, "capacity": resources},
    }


def _apply(place: Place, documents: list[Json]) -> None:
    """Server-side, all at once."""
    text = "\n---\n".join(json.dumps(document) for document in documents)
    done = place.plane.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr


def _scheduler(place: Place) -> list[str]:
    config = place.plane.kubeconfig
    options = ("--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=500")
    return [str(place.programs.kube_scheduler), f"--kubeconfig={config}", *options]


def _kwok(place: Place) -> list[str]:
    config = place.plane.kubeconfig
    options = ("--manage-all-nodes=true", "--node-lease-duration-seconds=40", "--server-address=127.0.0.1:0")
    return [str(place.programs.kwok), f"--kubeconfig={config}", *options]


def _operator(place: Place) -> list[str]:
    """In a mount namespace in which the runs' coordinators have addresses on loopback."""
    settings = {"trainerImage": "trainer:1", "operatorImage": "operator:1", "profiles": {"cpu": {}}}
    (place.folder / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (place.folder / "secret").write_bytes(place.secret)
    lines = ["127.0.0.1 localhost"]
    for number, name in enumerate(place.names()):
        for slot in names.COORDINATOR_SLOTS:
            service = f"{names.coordinator_service(name, slot)}.{TEAM}.svc.cluster.local"
            lines.append(f"{loopback(number, slot)} {service}")
    (place.folder / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")
    program = [sys.executable, "-m", "tessera_operator", "--settings", str(place.folder / "settings.yaml")]
    program += ["--secret", str(place.folder / "secret"), "--namespace", HOME]
    bind = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", bind, "sh", str(place.folder / "hosts"), *program]


@contextmanager
def _program(place: Place, name: str, argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "KUBECONFIG": str(place.plane.kubeconfig)}
    with (place.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    try:
        yield process
    except BaseException:
        print((place.folder / f"{name}.log").read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(20)


# ---- what is measured -------------------------------------------------------------------------------------------


async def _create(place: Place, pods: Pods) -> float:
    """Seconds from the application of all runs until their last pod has been created."""
    nodes = {"count": WORKERS - 1, "min": 1, "max": WORKERS - 1, "spares": 1}
    training = {**RUN["spec"]["training"], "globalBatch": 2 * WORKERS}
    spec = {**RUN["spec"], "nodes": nodes, "training": training}
    runs = [{**RUN, "metadata": {"name": name, "namespace": TEAM}, "spec": spec} for name in place.names()]
    began = time.monotonic()
    await asyncio.to_thread(_apply, place, runs)
    await _until("all pods are created", lambda: len(pods.appeared) == place.runs * (WORKERS + 2))
    return max(pods.appeared.values()) - began


async def _fail_pods(place: Place, pods: Pods, events: int) -> list[float]:
    """Seconds from each failure, as the API server shows it, to the pod that takes its place."""
    chosen = [(run, f"n{slot}") for run in place.names() for slot in range(WORKERS)]
    random.Random(7).shuffle(chosen)
    client = Writer(place)
    ended = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-27T12:00:00Z"}
    container = {"name": "node", "image": "trainer:1", "imageID": "x", "ready": False, "restartCount": 0}
    status = {"phase": "Failed", "containerStatuses": [{**container, "state": {"terminated": ended}}]}
    waited = []
    async with client:
        for run, slot in chosen[:events]:
            old, new = names.pod_name(run, slot, 0), names.pod_name(run, slot, 1)
            await client.status(old, status)
            waited.append((old, new))
            await asyncio.sleep(1 / EVENTS_PER_SECOND)
    await _until("all are replaced", lambda: all(new in pods.appeared for _, new in waited))
    return [pods.appeared[new] - pods.failed[old] for old, new in waited]


def _heard(place: Place) -> int:
    """How many runs show what their coordinator says."""
    done = place.plane.kubectl("get", "trainingruns", "--namespace", TEAM, "-o", "jsonpath={.items[*].status.phase}")
    return done.stdout.split().count("Running")


def _resident(pid: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


async def _until(what: str, holds: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began > LIMIT_SECONDS:
            raise TimeoutError(f"{what}: not within {LIMIT_SECONDS:.0f} s")
        await asyncio.sleep(0.3)


if __name__ == "__main__":
    main()
