"""What is shown of a run, and that nobody reading it does the run no harm."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tessera_api.run_directory import RunDirectory
from tessera_cli.progress import Progress
from tessera_cli.supervisor import Plan, Supervisor
from tests.train.local_place import resolved_run


def test_a_pipe_that_nobody_reads_ends_no_run(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8", buffering=1) as out:
        progress = Progress(RunDirectory(tmp_path), 20, out, lambda: None)
        progress.say("generation 1 is open")
        progress.look(last=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what is left in its buffer has to go somewhere


def test_the_order_to_stop_is_given_before_it_is_told(tmp_path: Path) -> None:
    async def stopped_when_told() -> list[bool]:
        told: list[bool] = []
        plan = Plan(RunDirectory(tmp_path), resolved_run(tmp_path / "tiny"), b"k" * 32)
        supervisor = Supervisor(plan, lambda _: told.append(supervisor._stop_until is not None))
        supervisor.interrupt()
        return told

    assert asyncio.run(stopped_when_told()) == [True]
