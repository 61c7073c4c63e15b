"""Leading a run: everything that a coordinator needs from its claim to the run's end, put together."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tessera_api.exit_codes import ExitCode
from tessera_api.journal import StepLine
from tessera_api.keys import Ring
from tessera_api.log import Claim
from tessera_api.resolved_run import ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_coordinator import last_words
from tessera_coordinator.accounts import Accounts, Past
from tessera_coordinator.client import Address
from tessera_coordinator.coordinator import Coordinator, Terms
from tessera_coordinator.core.drilling import Drills
from tessera_coordinator.core.formation import Wanted
from tessera_coordinator.core.hang import HangLimits
from tessera_coordinator.core.history import History
from tessera_coordinator.core.incidents import Incidents
from tessera_coordinator.core.ladder import Ladder
from tessera_coordinator.core.ledger import Ledger
from tessera_coordinator.core.membership import Membership
from tessera_coordinator.core.silence import Limits
from tessera_coordinator.garbage import Collector
from tessera_coordinator.journal import Journal, read
from tessera_coordinator.live_files import LiveFiles
from tessera_coordinator.recollection import Recollection, recollect
from tessera_coordinator.records import Records
from tessera_coordinator.run_log import RunLog
from tessera_coordinator.scribe import Scribe
from tessera_coordinator.server import Server
from tessera_store import Store, StoreError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Which coordinator of which run this is."""

    directory: RunDirectory
    resolved: ResolvedRun
    ring: Ring
    host: str
    port: int
    name: str
    """Under which others know it: its pod's."""
    slot: str | None = None
    """None: the run has one coordinator."""
    peer: Address | None = None
    """Where the other one listens."""
    metrics: Address | None = None
    """Where /metrics is answered; None: nowhere."""


def claim(place: Place, log: RunLog) -> Claim:
    """The next term, ours. Raises StoreError, IllegalEntry (the run has ended), Superseded."""
    holder = f"start-{place.resolved.start} {socket.gethostname()} {os.getpid()}"
    return log.claim(holder, time.time(), place.slot)


@dataclass(frozen=True)
class Ears:
    """Who is told once this coordinator leads: everybody who waited for it, with its port, and the metrics."""

    ready: Callable[[int], Awaitable[None]]
    leads: Callable[[Coordinator, StepLine | None], None] = lambda coordinator, newest: None


async def lead(place: Place, store: Store, log: RunLog, claim: Claim, ears: Ears) -> ExitCode:
    """Under `claim`, until the run is over or stopped. Raises Superseded, TermSeen, StoreError, OSError (address in
    use)."""
    journal = Journal(place.directory.root, store, claim.term)
    files = LiveFiles(place.directory)
    known = recollect(read(store, place.directory.root), files.incidents())
    for incident in known.incidents:
        files.incident(incident.number, incident.model_dump(mode="json"))
    adopts = _same_start(log.history, place.resolved.start)
    line = known.ledger
    ledger = Ledger(line.seconds, line.uncommitted) if line is not None else Ledger()
    away = max(0.0, time.time() - line.time) if adopts and line is not None else None
    incidents = Incidents.resumed(list(known.incidents))
    spec = place.resolved.run.spec
    allowed = spec.drills is spec.drills.ALLOWED
    drills = Drills(allowed, float(spec.hang_seconds), spec.checkpoint.every, known.drills)
    past = Past(place.resolved.created, known.newest, away, place.resolved.node_price, drills)
    accounts = Accounts(incidents, ledger, past)
    hang = HangLimits(floor=float(place.resolved.run.spec.hang_seconds))
    ladder = Ladder.resumed(known.incidents, random.random)
    membership = Membership(_wanted(place.resolved, log.history, known), Limits(), time.monotonic(), hang, ladder)
    membership.best_step = known.best_step
    membership.judge.began(known.best_before)
    scribe = Scribe(log)
    records = Records(journal, files)
    records.keep = store.put
    coordinator = Coordinator(_terms(place.resolved), membership, scribe, records, accounts)
    coordinator.collect = _collect_with(Collector(store))
    ears.leads(coordinator, known.newest)
    coordinator.begin(claim, adopts)
    server = Server(coordinator, scribe, place.ring, place.name)
    code = await server.serve(place.host, place.port, ears.ready)
    records.close()
    last_words.leave(coordinator.status())
    return code


def _terms(resolved: ResolvedRun) -> Terms:
    spec = resolved.run.spec
    replaces = spec.stragglers is spec.stragglers.REPLACE
    return Terms(resolved.name, resolved.total_steps, spec.checkpoint.keep, resolved.start, replaces)


def _wanted(resolved: ResolvedRun, history: History, known: Recollection) -> Wanted:
    nodes = resolved.run.spec.nodes
    size = known.size if known.size is not None and known.size.start == resolved.start else nodes
    last = history.open
    fingerprint = (last.fingerprint or "") if last else ""
    return Wanted(size.count, size.min, history.generation + 1, fingerprint, ordered=resolved.ordered_by != "")


def _same_start(history: History, start: int) -> bool:
    """Whether the generation that stands open in the log may still be running: a restart within a start, not a
    resumption."""
    return history.open is not None and history.open.start == start and not history.reopen


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
