"""`python -m tessera_operator --settings FILE --secret FILE`: the operator.

Runs until it is told to end, or a part of it breaks; Kubernetes then starts it anew. Runs go on without it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

import kopf
from pydantic import ValidationError

from tessera_api.exit_codes import ExitCode
from tessera_operator.cluster import Cluster
from tessera_operator.coordinators import Coordinators
from tessera_operator.handlers import registry
from tessera_operator.profiles import Settings, read_settings
from tessera_operator.reconcile import RUN, Reconciler
from tessera_operator.wakes import Wakes

logger = logging.getLogger("tessera_operator")

HEALTH_PORT = 8080
LEAST_SECRET = 16


def main() -> int:
    """The program. Returns an exit code of `tessera_api.exit_codes`."""
    parser = argparse.ArgumentParser(prog="python -m tessera_operator", description="Tessera's operator.")
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE")
    parser.add_argument("--secret", type=Path, required=True, metavar="FILE", help="at least 16 random bytes")
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
    asyncio.run(_serve(settings, secret))
    return ExitCode.DONE


async def _serve(settings: Settings, secret: bytes) -> None:
    cluster = await Cluster.connect()
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)

    def wake_run(uid: str) -> None:
        key = reconciler.key_of(uid)
        if key is not None and key.kind == RUN:
            wakes.wake(key)

    reconciler = Reconciler(cluster, settings, secret, Coordinators(wake_run))
    wakes = Wakes(reconciler.work)
    reconciler.wake = wakes.wake
    work = asyncio.create_task(wakes.run())
    watches = asyncio.create_task(
        kopf.operator(
            registry=registry(wakes.wake),
            namespaces=list(settings.namespaces),
            clusterwide=not settings.namespaces,
            standalone=True,
            stop_flag=stop,
            liveness_endpoint=f"http://0.0.0.0:{HEALTH_PORT}/healthz",
        )
    )
    done, _ = await asyncio.wait((work, watches), return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()  # a part that broke ends the program
    work.cancel()
    await cluster.close()


if __name__ == "__main__":
    sys.exit(main())
