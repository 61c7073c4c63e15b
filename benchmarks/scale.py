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
import secrets
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tessera_api.messages import FROM_AGENT, StatusAnswer, Welcome  # noqa: E402
from tessera_api.orders import StatusQuestion  # noqa: E402
from tessera_api.stream import MessageStream  # noqa: E402
from tessera_coordinator.door import Door, hello_on  # noqa: E402
from tessera_operator import names  # noqa: E402
from tessera_operator.keys import run_key  # noqa: E402
from tests.cluster.control_plane import ControlPlane, control_plane  # noqa: E402
from tests.cluster.go_programs import Programs, build_programs  # noqa: E402
from tests.unit.operator_world import RUN  # noqa: E402
from tests.unit.test_operator_builds import BUILD, RESULT  # noqa: E402

RUNS, WORKERS, NODES, EVENTS = 100, 6, 60, 300
EVENTS_PER_SECOND = 5.0
TEAM, HOME = "team", "tessera-system"
LIMIT_SECONDS = 120.0
Json = dict[str, Any]


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


@dataclass(frozen=True)
class Place:
    """Where everything runs."""

    programs: Programs
    plane: ControlPlane
    folder: Path
    runs: int
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def names(self) -> list[str]:
        """The runs."""
        return [f"gpt-{number}" for number in range(self.runs)]


async def _measure(place: Place, quick: bool) -> None:
    _prepare(place)
    with _program(place, "scheduler", _scheduler(place)), _program(place, "kwok", _kwok(place)):
        async with _watch(place) as pods, _coordinators(place, pods):
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
    built = {
        "conditions": [{"type": "Succeeded", "status": "True", "reason": "Published", "message": "done"}],
        "manifest": RESULT["manifest"],
        "manifestSha256": RESULT["sha256"],
        "tokenizerSha256": RESULT["tokenizer_sha256"],
        "fingerprint": RESULT["fingerprint"],
        "vocabulary": RESULT["vocabulary"],
        "tokens": RESULT["tokens"],
    }
    where = ("datasetbuild", "stdlib", "--namespace", TEAM, "--subresource=status", "--type=merge")
    done = place.plane.kubectl("patch", *where, "-p", json.dumps({"status": built}))
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
            lines.append(f"{_loopback(number, slot)} {service}")
    (place.folder / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")
    program = [sys.executable, "-m", "tessera_operator", "--settings", str(place.folder / "settings.yaml")]
    program += ["--secret", str(place.folder / "secret"), "--namespace", HOME]
    bind = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", bind, "sh", str(place.folder / "hosts"), *program]


def _loopback(number: int, slot: str) -> str:
    return f"127.9.{number}.{1 + names.COORDINATOR_SLOTS.index(slot)}"


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


# ---- who watches ----------------------------------------------------------------------------------------------------


@dataclass
class Pods:
    """Every pod as the API server shows it, and when one watcher saw what."""

    documents: dict[str, Json] = field(default_factory=dict)
    appeared: dict[str, float] = field(default_factory=dict)
    failed: dict[str, float] = field(default_factory=dict)

    def take(self, kind: str, pod: Json) -> None:
        """An event of the watch."""
        name, now = pod["metadata"]["name"], time.monotonic()
        if kind == "DELETED":
            self.documents.pop(name, None)
            return
        self.documents[name] = pod
        self.appeared.setdefault(name, now)
        if (pod.get("status") or {}).get("phase") == "Failed":
            self.failed.setdefault(name, now)

    def running(self) -> int:
        """How many run."""
        return sum(_phase(pod) == "Running" for pod in self.documents.values())

    def of(self, run: str, role: str) -> tuple[str, ...]:
        """The running pods of a run."""
        labels = {names.RUN_LABEL: run, names.ROLE_LABEL: role}.items()
        here = (pod for pod in self.documents.values() if labels <= pod["metadata"]["labels"].items())
        return tuple(sorted(pod["metadata"]["name"] for pod in here if _phase(pod) == "Running"))


def _phase(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase"))


@asynccontextmanager
async def _watch(place: Place) -> AsyncIterator[Pods]:
    pods = Pods()
    trust = ssl.create_default_context(cafile=str(place.plane.kubeconfig.parent / "server.crt"))
    token = yaml.safe_load(place.plane.kubeconfig.read_text())["users"][0]["user"]["token"]
    connector = aiohttp.TCPConnector(ssl=trust)
    headers = {"Authorization": f"Bearer {token}"}

    async def follow(session: aiohttp.ClientSession) -> None:
        url = f"{place.plane.url}/api/v1/namespaces/{TEAM}/pods?watch=1"
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
            async for line in answer.content:
                event = json.loads(line)
                pods.take(event["type"], event["object"])

    async with aiohttp.ClientSession(connector=connector, headers=headers, read_bufsize=2**22) as session:
        task = asyncio.create_task(follow(session))
        try:
            yield pods
        finally:
            task.cancel()


# ---- who plays the coordinators ---------------------------------------------------------------------------------


@asynccontextmanager
async def _coordinators(place: Place, pods: Pods) -> AsyncIterator[None]:
    """One listener a run, at the address of its first coordinator; nobody is at that of the second."""
    played = [_Played(place, pods, name) for name in place.names()]
    servers = [
        await asyncio.start_server(one.accept, _loopback(number, "c0"), names.PORT) for number, one in enumerate(played)
    ]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for one in played:
            await one.close()


class _Played:
    """A coordinator that counts whichever pods of its run run, and makes a step a second."""

    def __init__(self, place: Place, pods: Pods, run: str) -> None:
        self._place, self._pods, self._run = place, pods, run
        self._began = time.monotonic()
        self._door: Door | None = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Refused until a pod says which run this is: the key follows from its uid."""
        if self._door is None and (uid := self._uid()) is not None:
            self._door = Door(run_key(self._place.secret, uid), self._serve)
        if self._door is None:
            writer.close()
            return
        await self._door.accept(reader, writer)

    async def close(self) -> None:
        """No more streams."""
        if self._door is not None:
            await self._door.close()

    def _uid(self) -> str | None:
        mine = (pod for pod in self._pods.documents.values() if pod["metadata"]["labels"][names.RUN_LABEL] == self._run)
        return next((str(pod["metadata"]["ownerReferences"][0]["uid"]) for pod in mine), None)

    async def _serve(self, stream: MessageStream) -> None:
        await hello_on(stream)
        stream.send(Welcome(run=self._run, term=1))
        while True:
            if isinstance(FROM_AGENT.validate_python((await stream.receive(60)).body), StatusQuestion):
                stream.send(self._answer())

    def _answer(self) -> StatusAnswer:
        nodes = self._pods.of(self._run, names.WORKER)
        step = int(time.monotonic() - self._began)
        running = {"type": "Running", "status": "True", "reason": "Running", "message": "it trains"}
        status: dict[str, object] = {
            "phase": "Running",
            "conditions": [running],
            "step": f"{step}/100000",
            "loss": f"{5 / (1 + step):.4f}",
            "nodes": f"{len(nodes[: WORKERS - 1])}/{WORKERS - 1}",
        }
        coordinators = self._pods.of(self._run, names.COORDINATOR)
        return StatusAnswer(
            status=status, active=nodes[: WORKERS - 1], spare=nodes[WORKERS - 1 :], coordinators=coordinators
        )


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
    client = _Writer(place)
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


class _Writer:
    """Writes statuses of pods, as kubelets do."""

    def __init__(self, place: Place) -> None:
        trust = ssl.create_default_context(cafile=str(place.plane.kubeconfig.parent / "server.crt"))
        token = yaml.safe_load(place.plane.kubeconfig.read_text())["users"][0]["user"]["token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
        self._url = f"{place.plane.url}/api/v1/namespaces/{TEAM}/pods"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), headers=headers)

    async def __aenter__(self) -> _Writer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def status(self, pod: str, status: Json) -> None:
        """A pod's status."""
        async with self._session.patch(f"{self._url}/{pod}/status", json={"status": status}) as answer:
            assert answer.status == 200, await answer.text()


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
