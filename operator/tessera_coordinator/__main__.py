"""`python -m tessera_coordinator --run-directory DIR --listen HOST:PORT`: the coordinator of one run.

Ends when the run is over or stopped, or when another coordinator leads. It may be killed at any line and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import LedgerLine
from tessera_api.resolved_run import ResolvedRun, read_resolved_run
from tessera_api.run_directory import RunDirectory
from tessera_coordinator.accounts import Accounts
from tessera_coordinator.coordinator import Coordinator, Terms
from tessera_coordinator.core.formation import Wanted
from tessera_coordinator.core.history import History
from tessera_coordinator.core.incidents import Incidents
from tessera_coordinator.core.ledger import Ledger
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.silence import Limits
from tessera_coordinator.garbage import Collector
from tessera_coordinator.journal import Journal, read
from tessera_coordinator.live_files import LiveFiles
from tessera_coordinator.run_log import RunLog, Superseded
from tessera_coordinator.scribe import Scribe
from tessera_coordinator.server import Server, TermSeen
from tessera_store import Store, StoreError, open_store, probe

logger = logging.getLogger("tessera_coordinator")

_NO_ADDRESS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def main() -> int:
    """The program. Returns an exit code of `tessera_api.exit_codes`."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _end_at_once)
    directory = RunDirectory(arguments.run_directory)
    host, _, port = arguments.listen.rpartition(":")
    try:
        resolved = read_resolved_run(directory.run_json)
        key = directory.key.read_bytes()
    except (OSError, ValidationError) as error:
        logger.error("not a run directory: %s", error)
        return ExitCode.WRONG_INPUT
    try:
        return asyncio.run(_serve(directory, resolved, key, (host, int(port))))
    except (Superseded, TermSeen) as error:
        logger.warning("another coordinator leads: %s", error)
        return ExitCode.SUPERSEDED
    except StoreError as error:
        logger.error("storage does not serve: %s", error)
        return ExitCode.UNAVAILABLE
    except OSError as error:
        if error.errno not in _NO_ADDRESS:
            raise
        logger.error("cannot listen on %s: %s; choose another address or port", arguments.listen, error.strerror)
        return ExitCode.UNAVAILABLE


def _end_at_once(*_: object) -> None:
    """A container's first process is deaf to signals that it does not handle. There is nothing to tidy up: log and
    journal are whole at every line."""
    os._exit(128 + signal.SIGTERM)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tessera_coordinator", description="The coordinator of one run.")
    parser.add_argument("--run-directory", type=Path, required=True, metavar="DIR")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="port 0: any free one")
    return parser.parse_args()


async def _serve(directory: RunDirectory, resolved: ResolvedRun, key: bytes, address: tuple[str, int]) -> int:
    store = open_store(resolved.storage)
    log = RunLog(store)
    if log.read_all().length == 0:
        probe(store)
    if log.history.ended is not None:
        logger.info("the run has ended: %s", log.history.ended.message)
        return ExitCode.DONE if log.history.ended.reason == "complete" else ExitCode.TROUBLE
    before = log.history
    claim = log.claim(f"start-{resolved.start} {socket.gethostname()} {os.getpid()}", time.time())
    journal = Journal(directory.root, store, claim.term)
    files = LiveFiles(directory)
    accounts = Accounts(files, Incidents.resumed(files.incidents()), _ledger(store, directory), resolved.created)
    membership = Membership(_wanted(resolved, before), Limits(), time.monotonic())
    scribe = Scribe(log)
    coordinator = Coordinator(_terms(resolved), membership, scribe, journal, files, accounts)
    collector = Collector(store)
    coordinator.collect = _collect_with(collector)
    coordinator.begin(claim, _same_start(before, resolved.start))
    server = Server(coordinator, scribe, key)
    code = await server.serve(*address, lambda port: logger.info("listening on %s:%d", address[0], port))
    journal.close()
    files.close()
    return code


def _terms(resolved: ResolvedRun) -> Terms:
    return Terms(resolved.name, resolved.total_steps, resolved.run.spec.checkpoint.keep, resolved.start)


def _wanted(resolved: ResolvedRun, history: History) -> Wanted:
    nodes = resolved.run.spec.nodes
    last = history.open
    fingerprint = (last.fingerprint or "") if last else ""
    return Wanted(nodes.count, nodes.min, history.generation + 1, fingerprint)


def _same_start(history: History, start: int) -> bool:
    """Whether the generation that stands open in the log may still be running: a restart within a start, not a
    resumption."""
    return history.open is not None and history.open.start == start and not history.reopen


def _ledger(store: Store, directory: RunDirectory) -> Ledger:
    """The ledger goes on from its newest line in the journal."""
    newest: LedgerLine | None = None
    for record in read(store, directory.root):
        if isinstance(record, LedgerLine):
            newest = record
    return Ledger(time.time(), dict(newest.seconds) if newest else None)


def _collect_with(collector: Collector) -> Callable[[History], None]:
    """Deletion runs off the loop, one at a time; a missed one is made good by the next."""
    running: set[asyncio.Task[None]] = set()

    async def collect(history: History) -> None:
        try:
            await asyncio.to_thread(collector.collect, history)
        except StoreError as error:
            logger.warning("garbage waits for storage: %s", error)

    def start(history: History) -> None:
        if not running:
            task = asyncio.get_running_loop().create_task(collect(dataclasses.replace(history)))
            running.add(task)
            task.add_done_callback(running.discard)

    return start


if __name__ == "__main__":
    sys.exit(main())
