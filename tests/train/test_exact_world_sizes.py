"""Exact mode: losses, norms, weights and moments have the same bits at every world size, and across its changes.

Trainings run in a worker process (`exact_worker.py`), which imports torch once and forks the ranks of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(420)  # on a busy machine; about 45 s of CPU time

STEPS = 10
WORKER = Path(__file__).with_name("exact_worker.py")
Case = dict[str, Any]

VARIANTS: dict[str, tuple[Case, tuple[int, ...]]] = {
    "float32": ({}, (1, 2, 3, 4, 6)),
    "bfloat16": ({"precision": "bfloat16"}, (1, 4)),
    "experts": ({"experts": True, "checkpointed": True}, (1, 2, 3, 4)),
    "adapter": ({"adapter": True, "precision": "bfloat16", "tied": True}, (1, 2, 3, 4)),
    "all": ({"precision": "bfloat16", "tied": True, "checkpointed": True}, (1, 2, 3)),
}
COMPILED: Case = {"compiled": True, "checkpointed": True, "precision": "bfloat16", "steps": [0, 3]}
CHANGES = {1: 2, 3: 3, 2: 6, 4: 7, 5: STEPS}
"""World size -> the step until which it trains, one after the other, through checkpoints."""


def trainings(folder: Path) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name, (variant, worlds) in VARIANTS.items():
        cases |= {f"{name} at {world}": variant | {"world": world, "steps": [0, STEPS]} for world in worlds}
    cases["evaluated"] = {"world": 3, "steps": [0, STEPS], "evaluated": True}
    cases["plain"] = {"world": 3, "steps": [0, 1], "plain": True}
    cases["other data"] = {"world": 1, "steps": [1, STEPS + 1]}
    before = None
    for world, last in CHANGES.items():
        name = f"changed to {world}"
        cases[name] = {"world": world, "steps": [0, last], "store": (folder / "store").as_uri(), "save": f"n{world}"}
        cases[name] |= {"resume": str(folder / f"{before}.json")} if before else {}
        before = name
    return cases


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """What came out of each training."""
    folder = tmp_path_factory.mktemp("exact")
    return outcomes_of(trainings(folder), folder)


def outcomes_of(cases: dict[str, Case], folder: Path) -> dict[str, Case]:
    """Runs the cases in order. Fails with the worker's words."""
    listed = [case | {"out": str(folder / f"{name}.json")} for name, case in cases.items()]
    (folder / "cases.json").write_text(json.dumps(listed))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(WORKER), str(folder / "cases.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in cases}


def test_the_loss_is_the_mean_over_tokens_and_its_gradient_that_of_one_plain_backward_pass(
    outcomes: dict[str, Case],
) -> None:
    """Units whose tokens differ in number: a mean of their means would be off by some per cent."""
    plain = outcomes["plain"]
    assert len(set(plain["counts"])) == 2
    assert plain["loss"] < 1e-5
    assert plain["gradients"] < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bits_are_the_same_at_every_world_size(outcomes: dict[str, Case], variant: str) -> None:
    worlds = VARIANTS[variant][1]
    assert [outcomes[f"{variant} at {world}"] for world in worlds] == [outcomes[f"{variant} at 1"]] * len(worlds)


def test_the_bits_are_the_same_with_compiled_blocks(tmp_path: Path) -> None:
    one, two = outcomes_of({str(world): COMPILED | {"world": world} for world in (1, 2)}, tmp_path).values()
    assert two == one
    assert one["graphs"] == 1  # all blocks are alike, and none was left uncompiled


def test_changes_of_world_size_through_checkpoints_leave_no_trace(outcomes: dict[str, Case]) -> None:
    last = outcomes[f"changed to {list(CHANGES)[-1]}"]
    undisturbed = outcomes["float32 at 1"]
    assert {key: last[key] for key in ("weights", "state", "loss")} == {
        key: undisturbed[key] for key in ("weights", "state", "loss")
    }


def test_an_evaluation_before_the_first_step_changes_nothing(outcomes: dict[str, Case]) -> None:
    assert outcomes["evaluated"] == outcomes["float32 at 1"]


def test_other_data_gives_other_bits(outcomes: dict[str, Case]) -> None:
    one, other = outcomes["float32 at 1"], outcomes["other data"]
    assert all(one[key] != other[key] for key in ("losses", "norms", "weights", "state"))
