"""`tessera status`, `stop` and `report`: one run directory, looked at from outside."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from tessera_api.exit_codes import ExitCode
from tessera_api.keys import only
from tessera_api.orders import StopRun
from tessera_api.resolved_run import ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_api.training_run_status import TrainingRunStatus
from tessera_cli import directory_lock
from tessera_cli.refusal import Refused
from tessera_cli.report import write_report
from tessera_cli.run_history import read_history, read_status
from tessera_cli.starting import known_run, run_key
from tessera_coordinator.client import Address, ControllerClient

STOP_SECONDS = 60.0
STOP_GRACE = 30.0

_COLUMNS = ("phase", "step", "loss", "tokens_per_second", "mfu", "nodes", "restarts", "goodput", "eta", "age")
_TITLES = {"tokens_per_second": "TOK/S"}


def report(folder: Path) -> str:
    """Draw the run as far as it has come. Returns where. Raises Refused."""
    directory = RunDirectory(folder.resolve())
    write_report(directory.report, read_history(directory, known_run(directory)))
    return str(directory.report)


def status(folder: Path) -> str:
    """A table with the run's columns, as `kubectl get` shows them, and who drives it. Raises Refused."""
    directory = RunDirectory(folder.resolve())
    resolved = known_run(directory)
    holder = directory_lock.holder(directory.lock)
    driven = "nobody drives it" if holder is None else f"driven by process {holder or '(unknown)'}"
    return f"{_table(resolved.name, read_status(directory))}\n{driven}"


def _table(name: str, seen: TrainingRunStatus) -> str:
    titles = ["NAME", *(_TITLES.get(column, column.upper()) for column in _COLUMNS)]
    values = [name, *(_cell(getattr(seen, column)) for column in _COLUMNS)]
    widths = [max(len(title), len(value)) for title, value in zip(titles, values, strict=True)]
    lines = (
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, values)
    )
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def stop(folder: Path) -> str:
    """Stop a run that is being driven: it commits its step first. Returns how it ended. Raises Refused."""
    directory = RunDirectory(folder.resolve())
    resolved = known_run(directory)
    if directory_lock.holder(directory.lock) is None:
        raise Refused(f"nobody drives run {resolved.name}: there is nothing to stop")
    try:
        return asyncio.run(_stop(resolved, run_key(directory.key)))
    except TimeoutError as error:
        raise Refused(
            f"the coordinator at {resolved.coordinator} did not answer within {STOP_SECONDS + STOP_GRACE:.0f} s;"
            " press Ctrl-C twice where the run is driven",
            ExitCode.UNAVAILABLE,
        ) from error


async def _stop(resolved: ResolvedRun, key: bytes) -> str:
    client = ControllerClient(Address.parse_all(resolved.coordinator), only(key), "tessera-stop", question_seconds=0.2)
    client.stop(StopRun(reason="tessera stop", deadline_seconds=STOP_SECONDS))
    talking = asyncio.create_task(client.run())
    try:
        async with asyncio.timeout(STOP_SECONDS + STOP_GRACE):
            return await client.closed
    finally:
        talking.cancel()
        with suppress(asyncio.CancelledError):
            await talking
