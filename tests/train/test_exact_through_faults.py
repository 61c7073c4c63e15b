"""Exact mode end to end: a run that loses nodes, shrinks and grows comes to the very bits of one left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from exact_course import Course
from workload import dataset

STEPS = 60
pytestmark = pytest.mark.timeout(600)  # eight times torch's import; two minutes on a machine of its own


def test_a_run_through_a_kill_of_rank_0_shrinking_and_growth_is_equal_to_one_left_alone(tmp_path: Path) -> None:
    course = Course(tmp_path, dataset(tmp_path / "data", vocabulary=512), STEPS)
    alone = course.alone(3)
    disturbed, world_sizes = course.through_faults()
    assert disturbed == alone
    assert world_sizes == [3, 3, 2, 3]
