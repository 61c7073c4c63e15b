"""`python -m tessera_operator --settings FILE --secret FILE --namespace NAME`: the operator.

Of several one leads and works, the others stand by. It ends when it is told to, when it leads no longer, or when a part
of it breaks; Kubernetes then starts it anew. Runs go on without it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf
from pydantic import ValidationError

from tessera_api.exit_codes import ExitCode
from tessera_api.versions import versions
from tessera_operator.cluster import Cluster
from tessera_operator.coordinators import Coordinators
from tessera_operator.core.machine_signs import warning_of
from tessera_operator.handlers import registry
from tessera_operator.health import serve_health
from tessera_operator.leader import Leader, LeadershipLost
from tessera_operator.metrics import OperatorMetrics
from tessera_operator.profiles import Settings, read_settings
from tessera_operator.reconcile import RUN, Reconciler
from tessera_operator.wakes import Wakes

logger = logging.getLogger("tessera_operator")

HEALTH_PORT = 8080
LEAST_SECRET = 16


@dataclass(frozen=True)
class Place:
    """Which lease this process tries to hold, and under which name."""

    namespace: str
    lease: str
    identity: str


def main() -> int:
    """The program. Returns an exit code of `tessera_api.exit_codes`."""
    parser = argparse.ArgumentParser(prog="python -m tessera_operator", description="Tessera's operator.")
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE")
    parser.add_argument("--secret", type=Path, required=True, metavar="FILE", help="at least 16 random bytes")
    parser.add_argument("--namespace", required=True, metavar="NAME", help="where the operator's lease is")
    parser.add_argument("--lease", default="tessera-operator", metavar="NAME")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for chatty in ("kopf.objects", "aiohttp.access"):  # a line for each event that only wakes, and each probe
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        settings, secret = read_settings(arguments.settings), arguments.secret.read_bytes()
    except (OSError, ValidationError) as error:
        logger.error("settings or secret cannot be read: %s", error)
        return ExitCode.WRONG_INPUT
    if len(secret) < LEAST_SECRET:
        logger.error("the secret has %d bytes, and needs %d", len(secret), LEAST_SECRET)
        return ExitCode.WRONG_INPUT
    place = Place(arguments.namespace, arguments.lease, f"{socket.gethostname()}-{secrets.token_hex(4)}")
    try:
        asyncio.run(_serve(settings, secret, place))
    except LeadershipLost as error:
        logger.error("another operator may lead: %s", error)
        return ExitCode.SUPERSEDED
    return ExitCode.DONE


async def _serve(settings: Settings, secret: bytes, place: Place) -> None:
    """Stand by until this process leads, then work. Raises LeadershipLost, and what a part breaks of."""
    cluster, stop = await Cluster.connect(), asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    metrics = OperatorMetrics(cluster, versions().get("tessera", "unknown"))
    health = await serve_health(HEALTH_PORT, metrics.registry)
    leader = Leader(cluster, place.namespace, place.lease, place.identity)
    stopped = asyncio.create_task(stop.wait())
    try:
        leads = asyncio.create_task(leader.acquire())
        await asyncio.wait((leads, stopped), return_when=asyncio.FIRST_COMPLETED)
        if leads.done():
            leads.result()
            await _lead(cluster, settings, secret, Parts(leader, stop, metrics))
            await leader.release()
        leads.cancel()
    finally:
        stopped.cancel()
        await health.cleanup()
        await cluster.close()


@dataclass(frozen=True)
class Parts:
    """What surrounds the work of the one that leads."""

    leader: Leader
    stop: asyncio.Event
    metrics: OperatorMetrics


async def _lead(cluster: Cluster, settings: Settings, secret: bytes, parts: Parts) -> None:
    """Until it is told to stop, the lease is lost or a part breaks."""

    def wake_run(uid: str) -> None:
        key = reconciler.key_of(uid)
        if key is not None and key.kind == RUN:
            wakes.wake(key)

    def look(name: str, document: Mapping[str, Any]) -> None:
        reconciler.machine(name, warning_of(document, settings.signs) is not None)

    machine = look if not settings.namespaces else None  # nodes are the whole cluster's
    reconciler = Reconciler(cluster, settings, secret, Coordinators(wake_run))
    wakes = Wakes(reconciler.work)
    reconciler.wake, reconciler.on_begin = wakes.wake, parts.metrics.began
    parts.metrics.lead(wakes, reconciler.phases)
    watches = kopf.operator(
        registry=registry(wakes.wake, parts.metrics.event, settings.gang, machine),
        namespaces=list(settings.namespaces),
        clusterwide=not settings.namespaces,
        standalone=True,
        stop_flag=parts.stop,
    )
    tasks = [asyncio.ensure_future(part) for part in (wakes.run(), watches, parts.leader.keep())]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    for task in done:
        task.result()  # a part that broke ends the program, and Kubernetes starts it anew


if __name__ == "__main__":
    sys.exit(main())
