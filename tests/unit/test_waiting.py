"""Which collective a process waits in: what torch's flight recorder says of it, and how it comes to the coordinator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tessera_run.run
from tessera_api.inspection import Collective
from tessera_run.run import connect
from tessera_run.waiting import first_open
from tests.unit.live_coordinator import LiveCoordinator, LiveNode, eventually

REDUCE: dict[str, Any] = {
    "collective_seq_id": 51,
    "input_dtypes": ["Float"],
    "input_sizes": [[3, 5]],
    "is_p2p": False,
    "p2p_seq_id": 0,
    "process_group": ["0", "default_pg"],
    "profiling_name": "nccl:all_reduce",
    "retired": False,
    "state": "started",
}


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([], None),
        ([REDUCE | {"retired": True}], None),
        ([REDUCE | {"state": "completed"}], None),
        (
            [REDUCE | {"retired": True, "collective_seq_id": 50}, REDUCE, REDUCE | {"collective_seq_id": 52}],
            {"group": "default_pg", "number": 51, "operation": "all_reduce Float[3, 5]"},
        ),
        (
            [REDUCE | {"is_p2p": True, "p2p_seq_id": 7, "profiling_name": "gloo:send", "process_group": ["4", ""]}],
            {"group": "4", "number": 7, "operation": "send Float[3, 5]"},
        ),
        (
            [{key: value for key, value in REDUCE.items() if not key.startswith("input")}],
            {"group": "default_pg", "number": 51, "operation": "all_reduce"},
        ),
    ],
)
def test_the_first_collective_that_is_not_over_is_the_one_that_is_waited_in(
    entries: list[dict[str, Any]], found: dict[str, Any] | None
) -> None:
    assert first_open(entries) == found


def test_a_program_without_torch_waits_in_none_and_does_not_load_it() -> None:
    code = "import sys; from tessera_run.waiting import waits_in; print(waits_in(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"


PROGRAM = """
import json, sys, threading, time
import torch, torch.distributed as dist
from tessera_run.waiting import waits_in
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
dist.all_reduce(torch.ones(4))
while waits_in() is not None:  # the recorder hears of an end a moment later
    time.sleep(0.01)
print("null", flush=True)
if rank:
    sys.stdin.readline()
waiting = threading.Thread(target=dist.all_reduce, args=(torch.ones(3, 5),))
waiting.start()
while not rank and (found := waits_in()) is None:
    time.sleep(0.01)
if not rank:
    print(json.dumps(found), flush=True)
waiting.join()
"""


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_of_two_real_ranks_the_one_that_the_other_does_not_join_says_in_what_it_waits(
    ranks: list[subprocess.Popen[str]],
) -> None:
    said = [json.loads(process.stdout.readline()) for process in ranks if process.stdout is not None]
    assert said == [None, None]
    first, second = ranks
    assert first.stdout is not None
    assert second.stdin is not None
    assert json.loads(first.stdout.readline()) == {
        "group": "default_pg",
        "number": 2,
        "operation": "all_reduce Float[3, 5]",
    }
    second.stdin.write("\n")
    second.stdin.flush()
    assert [process.wait(60) for process in ranks] == [0, 0]


def test_the_agent_hears_it_from_every_rank_that_answers_and_waits_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([{"group": "g", "number": 3, "operation": "barrier"}, None, KeyError("another format"), {"group": "g"}])

    def recorder() -> object:
        found = next(said)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(tessera_run.run, "waits_in", recorder)
    with LiveCoordinator(tmp_path) as coordinator, LiveNode(coordinator, "node-0", tmp_path) as node:
        opening = node.join()
        with connect(node.environment(opening, 0)):
            eventually(node.lines.trainers, "it is connected")
            heard = []
            for awake, limit in ((0,), 20.0), ((0,), 20.0), ((0,), 20.0), ((0, 1), 0.5):
                node.lines.ask_what_they_wait_in()
                heard.append(node.lines.wait_in(frozenset(awake), limit))

    assert heard == [{0: Collective(group="g", number=3, operation="barrier")}, {0: None}, {0: None}, {}]
