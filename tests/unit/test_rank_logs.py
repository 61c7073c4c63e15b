"""The logs of a node's ranks: shown line by line, kept in storage, and never without a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tessera_store import Store, open_store
from tessera_trainer import rank_logs
from tessera_trainer.rank_logs import RankLogs


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "storage").as_uri())


def write(folder: Path, generation: int, rank: int, text: str) -> Path:
    path = folder / str(generation) / f"rank-{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return path


def test_whole_lines_are_shown_once_with_generation_and_rank(tmp_path: Path) -> None:
    folder, shown = tmp_path / "n0", list[str]()
    logs = RankLogs(folder, shown.append)
    assert logs.look() is False

    write(folder, 1, 0, "loss 3.2\nhalf a li")
    write(folder, 1, 1, "ready\n")
    assert logs.look() is True
    write(folder, 1, 0, "ne\n\x1b[31mred\n")
    assert logs.look() is False

    assert shown == ["[1/0] loss 3.2", "[1/1] ready", "[1/0] half a line", "[1/0] ?[31mred"]


def test_the_last_words_of_a_generation_are_shown_after_the_next_has_begun(tmp_path: Path) -> None:
    folder, shown = tmp_path / "n0", list[str]()
    logs = RankLogs(folder, shown.append)
    write(folder, 1, 0, "first\n")
    logs.look()

    write(folder, 1, 0, "last\n")
    write(folder, 2, 0, "anew\n")
    logs.look()

    assert shown == ["[1/0] first", "[1/0] last", "[2/0] anew"]


def test_what_is_too_much_for_a_look_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "SHOWN_BYTES", 20)
    folder, shown = tmp_path / "n0", list[str]()
    path = write(folder, 1, 0, "x" * 100 + "\nthe end\n")

    RankLogs(folder, shown.append).look()

    assert shown[0] == f"[1/0] 89 bytes are left out here, and stand in {path}"
    assert shown[-1] == "[1/0] the end"


def test_a_log_that_grows_without_end_takes_a_bounded_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "FILE_BYTES", 1000)
    folder, shown = tmp_path / "n0", list[str]()
    logs = RankLogs(folder, shown.append)
    path = write(folder, 1, 0, "")
    appending = os.open(path, os.O_WRONLY | os.O_APPEND)  # as a trainer has it

    for number in range(500):
        os.write(appending, f"line {number}\n".encode())
        if number % 10 == 9:
            logs.look()
    os.close(appending)

    assert [line.removeprefix("[1/0] ") for line in shown] == [f"line {number}" for number in range(500)]
    assert path.stat().st_size + path.with_suffix(".old").stat().st_size < 2500


def test_the_end_of_each_log_is_stored_when_it_has_changed(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "gpt-n0-0"
    logs = RankLogs(folder, None, lambda: store)
    write(folder, 1, 0, "a" * (rank_logs.STORED_BYTES + 7) + "b\n")
    logs.look()
    logs.keep()
    first = store.info("logs/gpt-n0-0/1/rank-0.log")

    logs.keep()
    assert store.info("logs/gpt-n0-0/1/rank-0.log") == first
    write(folder, 1, 0, "the end\n")
    logs.keep()

    kept = store.get("logs/gpt-n0-0/1/rank-0.log")
    assert (first.size, kept[-10:], len(kept)) == (rank_logs.STORED_BYTES, b"b\nthe end\n", rank_logs.STORED_BYTES)


def test_only_the_newest_generations_stay_on_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "n0"
    logs = RankLogs(folder)
    for generation in range(1, 31):
        write(folder, generation, 0, "x\n")
    write(folder, 0, 0, "x\n")
    (folder / "agent.log").touch()

    logs.look()

    left = sorted(int(each.name) for each in folder.iterdir() if each.is_dir())
    assert left == list(range(11, 31))
    assert (folder / "agent.log").exists()


def test_the_end_of_a_node_is_seen_and_stored(tmp_path: Path, store: Store) -> None:
    folder, shown = tmp_path / "n0", list[str]()
    logs = RankLogs(folder, shown.append, lambda: store)
    logs.begin()
    write(folder, 1, 0, "done\n")

    logs.end()

    assert shown == ["[1/0] done"]
    assert store.get("logs/n0/1/rank-0.log") == b"done\n"
