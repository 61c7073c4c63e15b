"""Set-up on a machine that lacks things: real script, real user, a PATH that holds no more than the test says."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PROGRAMS = ("bash", "dirname", "id", "sort", "head", "cat", "sha256sum", "cut")
NOBODY = 65534
IPTABLES = "" if shutil.which("iptables", path="/usr/sbin:/sbin") else "iptables "  # the script looks there too
OF_TESTS = f"g++ {IPTABLES}openssl golang-go"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to become a user without rights needs root")


@pytest.fixture
def machine() -> Iterator[Path]:
    """A folder that any user may write, with the scripts and `bin`, which holds PROGRAMS."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shutil.copytree(SCRIPTS, root / "scripts")
        (root / "bin").mkdir()
        for program in PROGRAMS:
            (root / "bin" / program).symlink_to(str(shutil.which(program)))
        root.chmod(0o777)
        yield root


def set_up(machine: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(shutil.which("bash")), str(machine / "scripts" / "setup.sh")]
    surroundings = {"PATH": str(machine / "bin"), "HOME": str(machine), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=surroundings, user=NOBODY)


def python_without(machine: Path, module: str) -> None:
    """A Python 3.12 that lacks a module, as Debian's does without its venv package."""
    script = machine / "bin" / "python3"
    script.write_text(
        '#!/bin/bash\ncase "$*" in *"import '
        + module
        + '"*) exit 1;; *version_info*) echo python3.12;; *) exit 0;; esac\n'
    )
    script.chmod(0o755)


def test_without_root_everything_that_lacks_is_named_at_once_and_set_up_stops(machine: Path) -> None:
    done = set_up(machine)

    assert done.returncode == 1
    packages = f"python3 python3-venv {OF_TESTS}"
    remedy = f"As root: apt-get update && apt-get install -y {packages}"
    assert done.stderr == f"setup: lacking: {packages}. {remedy}\n"
    assert not (machine / ".venv").exists()


def test_a_python_that_cannot_make_an_environment_asks_for_its_own_package(machine: Path) -> None:
    python_without(machine, "ensurepip")

    done = set_up(machine)

    assert done.returncode == 1
    assert f"lacking: python3.12-venv {OF_TESTS}." in done.stderr


def test_what_only_tests_need_stops_set_up_where_the_cluster_is_required(machine: Path) -> None:
    python_without(machine, "nothing")

    done = set_up(machine, TESSERA_REQUIRE_CLUSTER="1")

    assert done.returncode == 1
    assert f"lacking: {OF_TESTS}." in done.stderr
