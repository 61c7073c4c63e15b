"""What a node finds out about its trainers before they are stopped: real processes that spin, wait, and stand still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tessera_trainer.stacks import Trainer, innermost, inspect, main_thread
from tests.unit.live_coordinator import eventually

PROGRAM = """
import faulthandler, signal, sys, threading, time
from tessera_run.run import STACK_SIGNAL
faulthandler.register(STACK_SIGNAL, all_threads=True)

def spin():
    while True:
        pass

def wait_in_a_lock():
    lock = threading.Lock()
    with lock:
        lock.acquire()

threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("ready", flush=True)
{"spin": spin, "lock": wait_in_a_lock}[sys.argv[1]]()
"""


@contextmanager
def trainer(folder: Path, what: str) -> Iterator[Trainer]:
    program, log = folder / "program.py", folder / f"{what}.log"
    program.write_text(PROGRAM)
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, str(program), what], stdout=subprocess.PIPE, stderr=file)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield Trainer(process.pid, log)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_each_rank_is_seen_at_its_line_and_a_stopped_one_by_its_state(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ranks = {rank: stack.enter_context(trainer(tmp_path, what)) for rank, what in enumerate(("spin", "lock"))}
        for rank, what in ((2, "spin"),):
            folder = tmp_path / "stopped"
            folder.mkdir()
            ranks[rank] = stack.enter_context(trainer(folder, what))
        os.kill(ranks[2].pid, signal.SIGSTOP)
        eventually(lambda: inspect({2: ranks[2]})[0].state == "stopped", "the kernel says so")

        spins, waits, stopped = inspect(ranks)

    assert (spins.state, spins.at.partition(":")[0], spins.at.rpartition(" ")[2]) == ("running", "program.py", "spin")
    assert (waits.state, waits.at.rpartition(" ")[2], waits.collective) == ("sleeping", "wait_in_a_lock", False)
    assert (stopped.rank, stopped.state, stopped.at) == (2, "stopped", "")


def test_a_process_that_is_no_more_is_gone(tmp_path: Path) -> None:
    with trainer(tmp_path, "lock") as ended:
        pass

    (seen,) = inspect({0: ended})

    assert (seen.state, seen.at) == ("gone", "")


DUMP = """Thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 5 in wait

Current thread 0x00008f (most recent call first):
  File "/opt/tessera/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 9 in all_gather
  File "/opt/tessera/lib/python3.11/site-packages/tessera_trainer/loop.py", line 90 in _agree
"""


def test_a_wait_for_data_or_storage_is_seen_in_the_stack(tmp_path: Path) -> None:
    folder = tmp_path / "tessera_data"
    folder.mkdir()
    with trainer(folder, "lock") as reads, trainer(tmp_path, "lock") as works:
        seen = inspect({0: reads, 1: works})

    assert [rank.reading for rank in seen] == [True, False]


def test_the_main_thread_is_the_last_that_is_told() -> None:
    stack = main_thread(DUMP)

    assert stack is not None
    assert "all_gather" in stack
    assert "threading.py" not in stack


@pytest.mark.parametrize("text", ["", "Thread 0x1 (most recent call first):\n", DUMP[:-5]])
def test_a_stack_that_is_not_whole_yet_is_waited_for(text: str) -> None:
    assert main_thread(text) is None


def test_the_innermost_line_that_is_no_librarys_is_named_and_else_the_innermost_of_all() -> None:
    stack = main_thread(DUMP) or ""

    assert innermost(stack) == "loop.py:90 _agree"
    assert innermost(stack.replace("tessera_trainer", "somebody")) == "distributed_c10d.py:9 all_gather"
    assert innermost("") == ""
