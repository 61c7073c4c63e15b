"""`python -m tessera_coordinator --run-directory DIR --listen HOST:PORT`: a coordinator of one run.

Leads the run, or stands by while the other one does. Ends when the run is over or stopped, or when another coordinator
leads that ought to stand by. It may be killed at any line and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import StepLine
from tessera_api.keys import ring_of
from tessera_api.log import Claim
from tessera_api.resolved_run import read_resolved_run
from tessera_api.run_directory import RunDirectory
from tessera_coordinator import last_words
from tessera_coordinator.client import Address
from tessera_coordinator.client import leads as answers_as_leader
from tessera_coordinator.coordinator import Coordinator
from tessera_coordinator.core.history import History, IllegalEntry
from tessera_coordinator.core.succession import Succession, first_in_line
from tessera_coordinator.first_start import AnotherRun, be_the_same
from tessera_coordinator.journal import read
from tessera_coordinator.leading import Ears, Place, claim, lead
from tessera_coordinator.lobby import Lobby
from tessera_coordinator.origin import OriginUnfit, pin_origin
from tessera_coordinator.recollection import recollect
from tessera_coordinator.run_log import RunLog, Superseded
from tessera_coordinator.server import TermSeen
from tessera_coordinator.standing_by import client_of, stand_by
from tessera_store import StoreError, open_store, probe

logger = logging.getLogger("tessera_coordinator")

ASK_SECONDS = 1.0
"""So long a coordinator that begins waits for the other's word: less than the other waits before it takes the lead."""
_NO_ADDRESS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def main() -> int:
    """The program. Returns an exit code of `tessera_api.exit_codes`."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _end_at_once)
    try:
        place = _place(arguments)
    except (OSError, ValidationError) as error:
        logger.error("not a run directory: %s", error)
        return ExitCode.WRONG_INPUT
    gc.set_threshold(*COLLECT_AFTER)
    try:
        return asyncio.run(_coordinate(place))
    except (Superseded, TermSeen) as error:
        logger.warning("another coordinator leads: %s", error)
        return ExitCode.SUPERSEDED
    except (AnotherRun, OriginUnfit) as error:
        logger.error("%s", error)
        return ExitCode.WRONG_INPUT
    except StoreError as error:
        logger.error("storage does not serve: %s", error)
        return ExitCode.UNAVAILABLE
    except OSError as error:
        if error.errno not in _NO_ADDRESS:
            raise
        logger.error("cannot listen on %s: %s; choose another address or port", arguments.listen, error.strerror)
        return ExitCode.UNAVAILABLE


COLLECT_AFTER = (20_000, 20, 100)
"""Objects of thousands of nodes live long, and with Python's own numbers are looked at again and again."""


def _end_at_once(*_: object) -> None:
    """A container's first process is deaf to signals that it does not handle. There is nothing to tidy up: log and
    journal are whole at every line."""
    os._exit(128 + signal.SIGTERM)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tessera_coordinator", description="A coordinator of one run.")
    parser.add_argument("--run-directory", type=Path, required=True, metavar="DIR")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="port 0: any free one")
    parser.add_argument("--name", default="coordinator", help="what the other coordinator and the operator know it by")
    parser.add_argument("--slot", metavar="SLOT", help="c0 or c1, where the run has two coordinators")
    parser.add_argument("--peer", type=Address.parse, metavar="HOST:PORT", help="where the other one listens")
    parser.add_argument("--metrics", type=Address.parse, metavar="HOST:PORT", help="answer on /metrics there")
    arguments = parser.parse_args()
    if (arguments.slot is None) != (arguments.peer is None):
        parser.error("--slot and --peer go together")
    return arguments


def _place(arguments: argparse.Namespace) -> Place:
    directory = RunDirectory(arguments.run_directory)
    host, _, port = arguments.listen.rpartition(":")
    ring = ring_of(directory)
    ring()  # without a key nothing can begin
    return Place(
        directory=directory,
        resolved=read_resolved_run(directory.run_json),
        ring=ring,
        host=host,
        port=int(port),
        name=arguments.name,
        slot=arguments.slot,
        peer=arguments.peer,
        metrics=arguments.metrics,
    )


async def _coordinate(place: Place) -> int:
    if place.metrics is None:
        return await _take_part(place, lambda coordinator, newest: None)
    # Imported here: a run on a laptop shows no metrics, and needs neither package.
    from prometheus_client import CollectorRegistry

    from tessera_coordinator.metrics_page import serve_metrics
    from tessera_coordinator.run_metrics import RunMetrics

    registry = CollectorRegistry()
    metrics = RunMetrics(registry, place.resolved)
    page = await serve_metrics(registry, place.metrics.host, place.metrics.port)
    try:
        return await _take_part(place, metrics.lead)
    finally:
        await page.cleanup()


async def _take_part(place: Place, leads: Callable[[Coordinator, StepLine | None], None]) -> int:
    store = open_store(place.resolved.storage)
    log = RunLog(store)
    if log.read_all().length == 0:
        probe(store)
    be_the_same(store, place.resolved)
    if log.history.newest is None:  # else the first weights are needed no more, and the other run may be gone
        pin_origin(store, place.resolved)
    lobby, term = None, None
    if log.history.ended is None and await _leads_at_once(place, log.history):
        term = claim(place, log)
    elif log.history.ended is None:
        lobby, term = await _wait_for_the_lead(place, log)
    if term is None:
        known = recollect(read(store, place.directory.root))
        last_words.leave(last_words.final_status(place.resolved, log.history, known))
        return _code(log.history)

    async def ready(port: int) -> None:
        logger.info("listening on %s:%d", place.host, port)
        if lobby is not None:
            await lobby.dismiss(term.term)

    return await lead(place, store, log, term, Ears(ready, leads))


async def _leads_at_once(place: Place, history: History) -> bool:
    if place.peer is None:
        return True
    if await answers_as_leader(place.peer, place.ring, place.name, ASK_SECONDS):
        logger.info("stands by: the coordinator at %s leads", place.peer)
        return False
    return first_in_line(history, place.slot)


async def _wait_for_the_lead(place: Place, log: RunLog) -> tuple[Lobby, Claim | None]:
    """Stand by until this coordinator has claimed the lead; no claim when the run has ended. Raises OSError (address
    in use), Superseded."""
    assert place.peer is not None
    succession = Succession(time.monotonic())
    lobby = Lobby(place.resolved.name, place.ring, succession)
    port = await lobby.open(place.host, place.port)
    logger.info("standing by on %s:%d", place.host, port)
    while await stand_by(succession, client_of(place.peer, place.ring, place.name), log.read_all):
        try:
            term = await asyncio.to_thread(claim, place, log)
        except StoreError as error:
            logger.warning("cannot lead without the log: %s", error)
            continue
        except IllegalEntry:
            if log.history.ended is None:
                raise
            break  # it ended at this moment: there is nothing to lead
        lobby.stop_listening()
        return lobby, term
    await lobby.dismiss(None)
    return lobby, None


def _code(history: History) -> ExitCode:
    assert history.ended is not None
    logger.info("the run has ended: %s", history.ended.message)
    return ExitCode.DONE if history.ended.reason == "complete" else ExitCode.TROUBLE


if __name__ == "__main__":
    sys.exit(main())
