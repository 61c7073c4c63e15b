"""A node knows when one of its trainers was killed for its memory, by either interface of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera_trainer.memory_limit import MemoryLimit

NEWER = ("memory.events", "low 0\noom 3\noom_kill {}\noom_group_kill 0\n", "memory.max")
OLDER = ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n", "memory/memory.limit_in_bytes")


@pytest.mark.parametrize(("events", "text", "limit"), [NEWER, OLDER], ids=["cgroup v2", "cgroup v1"])
def test_a_kill_is_told_once_with_the_limit_and_a_remedy(tmp_path: Path, events: str, text: str, limit: str) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / events).write_text(text.format(2))
    (tmp_path / limit).write_text(f"{300 << 20}\n")
    memory = MemoryLimit(tmp_path)
    told = [memory.killed()]

    (tmp_path / events).write_text(text.format(3))
    told += [memory.killed(), memory.killed()]

    assert told == [False, True, False]
    assert memory.words() == (
        "out of memory: a trainer was killed at its node's limit of 300 MiB; lower training.unit or"
        " data.sequenceLength, or have nodes with more memory"
    )


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n", ""])
def test_a_node_without_a_limit_of_its_own_names_none(tmp_path: Path, limit: str) -> None:
    (tmp_path / "memory.max").write_text(limit)

    assert "at its node's limit; lower" in MemoryLimit(tmp_path).words()


def test_where_the_kernel_shows_nothing_nobody_is_found_killed(tmp_path: Path) -> None:
    assert MemoryLimit(tmp_path).killed() is False
