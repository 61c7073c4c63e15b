"""The supervisor: keeps one run's coordinator and nodes alive, until the run is over, stopped or hopeless.

Owns every process of one start. What must stay true: an ended node is reaped and reported to the coordinator at once,
and nothing of it lives on; whatever happens, no process of this start is left when `run` returns; every wait has a
limit. When to replace what is decided by `fleet.py`; what the run itself does is decided by the coordinator alone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from tessera_api.exit_codes import ExitCode
from tessera_api.keys import only
from tessera_api.messages import StatusAnswer
from tessera_api.orders import Reaped, StopRun
from tessera_api.resolved_run import Device, ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_cli import marked_processes
from tessera_cli.child import Child, start_process
from tessera_cli.fleet import Fleet, Start, Tries
from tessera_cli.live_nodes import sessions_of
from tessera_cli.program_log import last_words
from tessera_cli.programs import Programs
from tessera_coordinator.attendance import Attendance
from tessera_coordinator.client import Address, ControllerClient

_LAST = {code.value: code for code in (ExitCode.DONE, ExitCode.TROUBLE, ExitCode.STOPPED, ExitCode.WRONG_INPUT)}
"""With these a coordinator has said the last word; after any other end it is restarted."""


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    stop: float = 60.0
    """That a stop gives the run to park and commit."""
    stop_grace: float = 30.0
    """Beyond `stop`, before everything is ended by force."""
    farewell: float = 20.0
    """For agents to exit after the coordinator, and the other way round."""
    terminate: float = 5.0
    """From SIGTERM to SIGKILL."""
    uncounted: float = 5.0
    """That a living node may be missing from the coordinator's list before another is started."""
    restart_delay: float = 0.0
    """Before a dead coordinator is restarted."""
    sweep: float = 2.0
    """For killed processes to be gone."""


@dataclass(frozen=True)
class Plan:
    """What is to be supervised."""

    directory: RunDirectory
    resolved: ResolvedRun
    key: bytes
    programs: Programs = field(default_factory=Programs)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Outcome:
    """How the start ended, as far as the supervisor saw it; the log has the last word."""

    code: ExitCode
    reason: str


class Supervisor:
    """See the module. `say` takes a line for people."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        nodes = plan.resolved.run.spec.nodes
        self._plan, self._say = plan, say
        self._mark = secrets.token_hex(8)
        self._fleet = Fleet(nodes.count + nodes.spares)
        self._least = nodes.min
        self._attendance = Attendance(plan.limits.uncounted)
        self._client = ControllerClient(Address.parse_all(plan.resolved.coordinator), only(plan.key), "tessera-local")
        self._client.on_status, self._client.on_stream = self._answered, self._stream
        self._client.closed.add_done_callback(lambda _: self._wake.set())
        self._agents: dict[str, Child] = {}
        self._coordinator: Child | None = None
        self._coordinator_due: float | None = 0.0
        self._tries = Tries()
        self._sweeps: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._outcome: Outcome | None = None
        self._stop_until: float | None = None
        self._forced = False

    def interrupt(self) -> None:
        """Ctrl-C. Once: stop the run. Twice: end everything now."""
        if self._stop_until is None:
            self._stop("interrupt")  # the order first: whatever becomes of the words
            within = self._plan.limits.stop
            self._say(f"stopping: the run commits its step first, within {within:.0f} s; Ctrl-C again ends it at once")
        else:
            self._forced = True
        self._wake.set()

    def _stop(self, reason: str) -> None:
        limits = self._plan.limits
        self._stop_until = time.monotonic() + limits.stop + limits.stop_grace
        self._client.stop(StopRun(reason=reason, deadline_seconds=limits.stop))

    async def run(self) -> Outcome:
        """Until it is over. All processes are gone when this returns."""
        talking = asyncio.create_task(self._client.run())
        try:
            while self._outcome is None and not self._forced:
                self._start_what_is_due()
                await self._pause()
                self._check_limits()
            if not self._forced:
                await self._farewell()
        finally:
            await self._end_all()
            talking.cancel()
            with suppress(asyncio.CancelledError):
                await talking
        return self._outcome or Outcome(ExitCode.STOPPED, "ended at once, without a commit")

    async def _pause(self) -> None:
        """Until something happens or is due."""
        nodes_due = self._fleet.next_due() if self._stop_until is None else self._stop_until
        dues = [due for due in (nodes_due, self._coordinator_due) if due is not None]
        await self._nap(min(dues, default=time.monotonic() + 1.0) - time.monotonic())

    async def _nap(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(min(1.0, max(0.0, seconds))):
                await self._wake.wait()
        self._wake.clear()

    def _check_limits(self) -> None:
        if self._stop_until is not None and time.monotonic() >= self._stop_until:
            self._say("the run did not stop in time; ending it by force: its last commit stands")
            self._forced = True
        elif self._client.closed.done() and self._outcome is None:
            code = ExitCode.TROUBLE if self._stop_until is None else ExitCode.STOPPED
            self._outcome = Outcome(code, self._client.closed.result())

    # ---- starting -----------------------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        if self._coordinator_due is not None and now >= self._coordinator_due:
            self._coordinator_due = None
            self._start_coordinator()
        if self._stop_until is None:
            for start in self._fleet.starts(now):
                self._start_agent(start)

    def _start_coordinator(self) -> None:
        directory, address = self._plan.directory, self._plan.resolved.coordinator
        command = self._plan.programs.coordinator_of(directory.root, address)
        environment = os.environ | {marked_processes.MARK: f"{self._mark}/coordinator"}
        process = start_process(command, environment, directory.coordinator_log)
        self._coordinator = Child(process, self._coordinator_ended)

    def _start_agent(self, start: Start) -> None:
        directory, resolved = self._plan.directory, self._plan.resolved
        command = self._plan.programs.agent_of(directory.root, start.node, resolved.coordinator)
        environment = os.environ | {
            marked_processes.MARK: f"{self._mark}/{start.node}",
            "OMP_NUM_THREADS": str(resolved.threads),
            "CUDA_VISIBLE_DEVICES": self._devices(start.slot),
        }
        process = start_process(command, environment, directory.agent_log(start.node))
        self._agents[start.node] = Child(process, partial(self._agent_ended, start.node))
        if start.node not in self._first_names():
            self._say(f"{start.node} started (process {process.pid})")

    def _first_names(self) -> frozenset[str]:
        nodes = self._plan.resolved.run.spec.nodes
        return frozenset(f"node-{number}" for number in range(nodes.count + nodes.spares))

    def _devices(self, slot: int) -> str:
        """Each slot has its own accelerators: the ones of a dead node go to its replacement."""
        if self._plan.resolved.device is Device.CPU:
            return ""
        each = self._plan.resolved.run.spec.nodes.processes_per_node
        offered = os.environ.get("CUDA_VISIBLE_DEVICES")
        numbers = offered.split(",") if offered else [str(number) for number in range((slot + 1) * each)]
        return ",".join(numbers[slot * each : (slot + 1) * each])

    # ---- ends of processes --------------------------------------------------------------------------------------

    def _agent_ended(self, node: str, code: int) -> None:
        """First the coordinator learns it, then the rest of the node is ended, then its replacement is planned."""
        child = self._agents.pop(node)
        self._client.reaped(Reaped(node=node, agent_pid=child.pid, code=code))
        self._wake.set()
        sweep = asyncio.create_task(
            self._sweep(f"{self._mark}/{node}", sessions_of(self._plan.directory, node, child.pid))
        )
        self._sweeps.add(sweep)
        sweep.add_done_callback(self._sweeps.discard)
        if self._over():
            return
        now = time.monotonic()
        verdict = self._fleet.ended(node, code, now - child.started, now)
        why = "" if code < 0 else last_words(self._plan.directory.agent_log(node))
        again = f"; its replacement starts in {verdict.wait:.0f} s" if verdict.wait else ""
        given_up = f"; {verdict.given_up}" if verdict.given_up else ""
        self._say(f"{node} has ended: {code_text(code)}{again}{given_up}{why}")
        if verdict.given_up and self._fleet.places < self._least:
            self._outcome = Outcome(ExitCode.TROUBLE, f"too few nodes can work: {node} ended, {code_text(code)}{why}")

    def _over(self) -> bool:
        return self._outcome is not None or self._stop_until is not None or self._forced or self._client.closed.done()

    async def _sweep(self, mark: str, sessions: frozenset[int] = frozenset()) -> None:
        """End whatever is left, until a look finds nothing more. What is about to be forked is found by the next
        look.
        """
        deadline = time.monotonic() + self._plan.limits.sweep
        while (pids := marked_processes.living(mark, sessions)) and time.monotonic() < deadline:
            marked_processes.kill(pids)
            await asyncio.sleep(0.02)

    def _coordinator_ended(self, code: int) -> None:
        child, self._coordinator = self._coordinator, None
        self._wake.set()
        if self._forced or (self._outcome is not None and code not in _LAST):
            return
        words = last_words(self._plan.directory.coordinator_log)
        if code in _LAST:
            reason = self._client.closed.result() if self._client.closed.done() else f"{code_text(code)}{words}"
            self._outcome = Outcome(_LAST[code], reason)
            return
        lived = time.monotonic() - child.started if child else 0.0
        wait = max(self._tries.died(lived), self._plan.limits.restart_delay)
        if self._tries.hopeless and code != ExitCode.UNAVAILABLE:  # trouble of the infrastructure alone ends no run
            self._outcome = Outcome(ExitCode.TROUBLE, f"the coordinator can't run: {code_text(code)}{words}")
            return
        self._coordinator_due = time.monotonic() + wait
        why = "" if code < 0 else words
        self._say(
            f"the coordinator has ended: {code_text(code)}; it is restarted in {wait:.0f} s; training goes on{why}"
        )

    # ---- what the coordinator says ------------------------------------------------------------------------------

    def _stream(self, connected: bool) -> None:
        self._attendance.interrupted()

    def _answered(self, answer: StatusAnswer) -> None:
        present, now = frozenset((*answer.active, *answer.spare)), time.monotonic()
        for node in self._attendance.answered(present, frozenset(self._agents), now):
            if not self._over() and self._fleet.supplement(node, now):
                patience = self._plan.limits.uncounted
                self._say(f"{node} lives, but is not counted for {patience:.0f} s: another node is started beside it")
                self._wake.set()

    # ---- the end ------------------------------------------------------------------------------------------------

    async def _farewell(self) -> None:
        """Everybody exits by themselves, within the limit."""
        children = [*self._agents.values(), *([self._coordinator] if self._coordinator else [])]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.limits.farewell):
                while not self._forced and not all(child.gone.is_set() for child in children):
                    await self._nap(1.0)

    async def _end_all(self) -> None:
        """Whatever still lives is ended: politely unless forced, then surely."""
        self._outcome = self._outcome or (Outcome(ExitCode.STOPPED, "ended by force") if self._forced else None)
        children = [*self._agents.values(), *([self._coordinator] if self._coordinator else [])]
        if not self._forced and children:
            for child in children:
                child.send(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._plan.limits.terminate):
                    await asyncio.gather(*(child.gone.wait() for child in children))
        for child in children:
            child.send(signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.limits.terminate):
                await asyncio.gather(*(child.gone.wait() for child in children), *self._sweeps)
        await self._sweep(f"{self._mark}/")


def code_text(code: int) -> str:
    """An exit code for people."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    names = {known.value: known.name.lower().replace("_", " ") for known in ExitCode}
    return f"code {code} ({names[code]})" if code in names else f"code {code}"
