"""Nodes are lost, and training goes on from what the others hold in memory: a step or two back, with no checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from exact_course import Course
from snapshots import cut_short, kill_trainers, slow_stage
from workload import dataset

STEPS = 120
NEVER = 1000
EVERY = 2
SETTLING = 8
"""Steps that a copy may take until it is whole, on a machine that does all at once: five times what is measured."""
pytestmark = pytest.mark.timeout(600)


def test_lost_nodes_cost_the_steps_since_the_last_snapshot_and_no_bit(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", vocabulary=512)
    alone = Course(tmp_path, data, STEPS, snapshot_every=0).alone(2)
    course = Course(tmp_path, data, STEPS, every=NEVER, snapshot_every=EVERY)

    disturbed, world_sizes = course.through_faults()

    assert disturbed == alone
    assert world_sizes == [3, 3, 2, 3]
    _, replaced, shrunk, _ = course.opened()
    for generation in (replaced, shrunk):
        names = {member["node"] for member in generation["members"]}
        assert set(generation["resume"]["holders"]) <= names
    assert [incident["steps_lost"] <= EVERY + SETTLING for incident in course.incidents()] == [True, True]


def test_what_a_save_was_cut_short_of_is_in_the_memory_of_its_node_or_another(tmp_path: Path) -> None:
    with slow_stage(tmp_path) as stage:
        assert cut_short(stage, 0, lambda: kill_trainers(stage))
        stage.settle()
        assert cut_short(stage, 1, lambda: stage.kill(stage.lab.members()[1]))
