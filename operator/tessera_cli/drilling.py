"""`tessera drill`: order a fault of a run that is being driven, wait for what comes of it, and say whether the promise
was kept."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tessera_api.drill import HANG, OF_THE_API_SERVER, PROMISES, Drill, Fault
from tessera_api.exit_codes import ExitCode
from tessera_api.keys import only
from tessera_api.messages import StatusAnswer
from tessera_api.resolved_run import ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_api.training_run import Drills, TrainingRunSpec
from tessera_api.training_run_status import DrillResult, ShownDrill, TrainingRunStatus
from tessera_cli import directory_lock
from tessera_cli.refusal import Refused
from tessera_cli.starting import known_run, run_key
from tessera_coordinator.client import Address, ControllerClient

BEGIN_SECONDS = 30.0
"""Within this a drill that is taken shows in the status."""
RESULT_SECONDS = 180.0
"""Beyond what the fault itself and the run's `hangSeconds` take."""


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    fault: Fault
    node: str | None
    seconds: float


def drill(folder: Path, order: Order, say: Callable[[str], None]) -> ExitCode:
    """Returns DONE where the promise was kept, TROUBLE where it was not. Raises Refused."""
    directory = RunDirectory(folder.resolve())
    resolved = known_run(directory)
    if order.fault in OF_THE_API_SERVER:
        words = f"{order.fault.value} is a drill of runs on a cluster: a local run asks nothing of an API server"
        raise Refused(words, ExitCode.WRONG_INPUT)
    if directory_lock.holder(directory.lock) is None:
        raise Refused(f"nobody drives run {resolved.name}: there is nothing to drill")
    if resolved.run.spec.drills is not Drills.ALLOWED:
        again = "start it with --set drills=Allowed"
        raise Refused(f"run {resolved.name} allows no drills: {again}", ExitCode.WRONG_INPUT)
    return asyncio.run(conduct(resolved, run_key(directory.key), order, say))


async def conduct(resolved: ResolvedRun, key: bytes, order: Order, say: Callable[[str], None]) -> ExitCode:
    """The order, and what came of it. Raises Refused."""
    asked = Drill(identity=secrets.token_hex(6), fault=order.fault, node=order.node, seconds=order.seconds)
    client = ControllerClient(Address.parse_all(resolved.coordinator), only(key), "tessera-drill", question_seconds=0.5)
    watch = _Watch(asked.identity)
    client.on_status = watch.answered
    client.order(asked)
    talking = asyncio.create_task(client.run())
    try:
        shown = await watch.first(BEGIN_SECONDS)
        say(f"{shown.fault.value} is done to {whom(shown)}")
        limit = RESULT_SECONDS + order.seconds + resolved.run.spec.hang_seconds
        return told(await watch.last(limit), resolved.run.spec, say)
    finally:
        talking.cancel()
        with suppress(asyncio.CancelledError):
            await talking


class _Watch:
    """What the coordinator says of one drill."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._begun: asyncio.Future[ShownDrill] = asyncio.get_running_loop().create_future()
        self._over: asyncio.Future[ShownDrill] = asyncio.get_running_loop().create_future()

    def answered(self, answer: StatusAnswer) -> None:
        status = TrainingRunStatus.model_validate(answer.status)
        shown = next((one for one in status.drills or () if one.identity == self._identity), None)
        if shown is None:
            return
        if not self._begun.done():
            self._begun.set_result(shown)
        if shown.result is not DrillResult.RUNS and not self._over.done():
            self._over.set_result(shown)

    async def first(self, limit: float) -> ShownDrill:
        """Raises Refused where it was not done."""
        why = "the run's events say why: it has to train, and the node to be one that does"
        return await self._within(self._begun, limit, f"no drill was done within {limit:.0f} s; {why}")

    async def last(self, limit: float) -> ShownDrill:
        """Raises Refused where nothing came of it in time."""
        return await self._within(self._over, limit, f"the run has not recovered within {limit:.0f} s")

    async def _within(self, wanted: asyncio.Future[ShownDrill], limit: float, words: str) -> ShownDrill:
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(wanted)
        except TimeoutError as error:
            raise Refused(words, ExitCode.UNAVAILABLE) from error


def whom(shown: ShownDrill) -> str:
    """It was done to, in words."""
    nobody = "the operator" if shown.fault in OF_THE_API_SERVER else "the leading coordinator"
    return shown.node or nobody


def told(shown: ShownDrill, spec: TrainingRunSpec, say: Callable[[str], None]) -> ExitCode:
    """What came of it, beside what is promised."""
    promise = PROMISES[shown.fault]
    if promise.detect is None:
        say("promised: no generation ends unplanned")
    else:
        detect = promise.detect + (spec.hang_seconds if promise is HANG else 0)
        say(f"detected after   {shown.detect_seconds or '-'} s (promised: {detect:.0f} s)")
        say(f"next step after  {shown.recovery_seconds or '-'} s more (promised: {promise.recover:.0f} s)")
        lost = "-" if shown.steps_lost is None else str(shown.steps_lost)
        say(f"steps lost       {lost} (promised: {2 * spec.checkpoint.every} at most)")
    kept = shown.result is DrillResult.KEPT
    say("kept" if kept else "BROKEN")
    return ExitCode.DONE if kept else ExitCode.TROUBLE
