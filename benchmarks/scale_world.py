"""What `scale.py` plays: coordinators that count whichever pods run, one who watches all pods, kubelets that fail."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from tessera_operator.keys import run_keys  # noqa: E402
from tests.cluster.control_plane import ControlPlane  # noqa: E402
from tests.cluster.go_programs import Programs  # noqa: E402

WORKERS, TEAM = 6, "team"
Json = dict[str, Any]


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


def loopback(number: int, slot: str) -> str:
    """Where the coordinator of a run listens."""
    return f"127.9.{number}.{1 + names.COORDINATOR_SLOTS.index(slot)}"


# ---- who watches ----------------------------------------------------------------------------------------------------


@dataclass
class Pods:
    """Every pod as the API server shows it, and when one watcher saw what."""

    documents: dict[str, Json] = field(default_factory=dict)
    appeared: dict[str, float] = field(default_factory=dict)
    failed: dict[str, float] = field(default_factory=dict)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and followed by another, at each event."""

    def take(self, kind: str, pod: Json) -> None:
        """An event of the watch."""
        name, now = pod["metadata"]["name"], time.monotonic()
        came, self.came = self.came, asyncio.Event()
        came.set()
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
async def watch(place: Place) -> AsyncIterator[Pods]:
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
async def coordinators(place: Place, pods: Pods) -> AsyncIterator[None]:
    """One listener a run, at the address of its first coordinator; nobody is at that of the second."""
    played = [_Played(place, pods, name) for name in place.names()]
    tasks = [asyncio.create_task(one.open(loopback(number, "c0"))) for number, one in enumerate(played)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for one in played:
            await one.close()


class _Played:
    """A coordinator that counts whichever pods of its run run, and makes a step a second."""

    def __init__(self, place: Place, pods: Pods, run: str) -> None:
        self._place, self._pods, self._run = place, pods, run
        self._began = time.monotonic()
        self._door: Door | None = None
        self._server: asyncio.Server | None = None

    async def open(self, address: str) -> None:
        """Listens once a pod says which run this is: the key follows from its uid."""
        while (uid := self._uid()) is None:
            await self._pods.came.wait()
        with tempfile.TemporaryDirectory() as folder:
            keys = run_keys(self._place.secret, uid, 1)
            files = Path(folder, "tls.crt"), Path(folder, "tls.key")
            for file, text in zip(files, (keys.certificate, keys.private), strict=True):
                file.write_text(text)
            held = dataclasses.replace(keys.held(), files=files)
            self._door = Door(lambda: (held,), self._serve)
        self._server = await self._door.listen(address, names.PORT)

    async def close(self) -> None:
        """No more streams."""
        if self._server is not None:
            self._server.close()
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


class Writer:
    """Writes statuses of pods, as kubelets do."""

    def __init__(self, place: Place) -> None:
        trust = ssl.create_default_context(cafile=str(place.plane.kubeconfig.parent / "server.crt"))
        token = yaml.safe_load(place.plane.kubeconfig.read_text())["users"][0]["user"]["token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
        self._url = f"{place.plane.url}/api/v1/namespaces/{TEAM}/pods"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), headers=headers)

    async def __aenter__(self) -> Writer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def status(self, pod: str, status: Json) -> None:
        """A pod's status."""
        async with self._session.patch(f"{self._url}/{pod}/status", json={"status": status}) as answer:
            assert answer.status == 200, await answer.text()
