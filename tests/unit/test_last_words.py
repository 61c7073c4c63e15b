"""What the end of a trainer's log says of its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tessera_trainer.last_words import LastWords, last_words
from tessera_trainer.warm_client import ENDED


def test_the_last_traceback_names_place_and_error_as_the_trainer_itself_would(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("try:\n    {}['first']\nexcept KeyError:\n    import no_such_module\n")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    log = tmp_path / "rank-0.log"
    log.write_text(f"step 1\n{done.stderr}{ENDED}exit code 1\n")

    message = "ModuleNotFoundError: No module named 'no_such_module'"
    assert last_words(log) == LastWords(f"{program}:4 ModuleNotFoundError", message)


@pytest.mark.parametrize(
    ("how", "place", "message"),
    [
        ("exit code 3", "exit code 3", "ended by exit code 3, without a word"),
        ("signal 11", "SIGSEGV", "ended by SIGSEGV, without a word"),
        ("signal 9", "", "ended by SIGKILL, without a word"),
        ("signal 15", "", "ended by SIGTERM, without a word"),
    ],
)
def test_without_a_traceback_the_code_is_the_place_unless_it_was_ended_from_outside(
    tmp_path: Path, how: str, place: str, message: str
) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text(f"step 1\n{ENDED}{how}\n")

    assert last_words(log) == LastWords(place, message)


def test_a_traceback_that_was_logged_before_is_not_the_end_of_a_trainer_that_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text(f'  File "train.py", line 3\nKeyError: 1\nstep 7\n{ENDED}signal 9\n')

    assert last_words(log) == LastWords("", "ended by SIGKILL, without a word")


@pytest.mark.parametrize("text", ["", "step 1\nstep 2\n", '  File "half a traceback.py", line 3\n'])
def test_a_log_that_says_nothing_of_the_end_has_no_last_words(tmp_path: Path, text: str) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text(text)

    assert last_words(log) is None
    assert last_words(tmp_path / "no such log") is None
