"""The demo in its quick form, as a user starts it: the real command, real kills, the real export."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"
END_SECONDS = 600.0
"""On a machine that others use too; by itself it takes about one minute."""
STOP_SECONDS = 30.0

pytestmark = pytest.mark.timeout(700)


def start(workdir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(DEMO), "--quick", "--workdir", str(workdir)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def living(workdir: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:  # it has ended meanwhile
            continue
        if str(workdir).encode() in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_the_demo_goes_through_two_kills_to_a_model_that_writes(tmp_path: Path) -> None:
    demo = start(tmp_path / "demo")
    try:
        out, _ = demo.communicate(timeout=END_SECONDS)
    finally:
        demo.kill()
    assert demo.returncode == 0, out
    headings = re.findall(r"^\[\d+:\d\d\] (\d)\. ", out, re.MULTILINE)
    assert headings == ["1", "2", "3", "4", "5"], out
    assert re.search(r"node (node-\d), which held rank 0, was killed .*\n.*detected +\d+\.\d\d s after", out), out
    assert re.search(r"the coordinator was killed .*\n.*a new one leads .*\(term 2\)\n.*goes on", out), out
    assert re.search(r"next step +\d+\.\d\d s after it", out), out
    assert "run demo is complete: all 300 steps are done" in out
    assert out.count("--- greedy") == out.count("--- sampled") == 3
    bits = dict(re.findall(r"^ {4}(unigram|bigram|gzip|this model) +(\d+\.\d+)$", out, re.MULTILINE))
    assert float(bits["this model"]) < float(bits["bigram"]) < float(bits["unigram"]), out
    assert (tmp_path / "demo/runs/demo/report.html").read_text().count("incident-1")
    assert living(tmp_path / "demo") == []


def test_a_stopped_demo_leaves_nothing_running(tmp_path: Path) -> None:
    demo = start(tmp_path / "demo")
    nodes = tmp_path / "demo/runs/demo/nodes.json"
    deadline = time.monotonic() + END_SECONDS
    assert demo.stdout is not None
    while not nodes.exists() and time.monotonic() < deadline:
        assert demo.stdout.readline(), "it ended too soon"
    demo.send_signal(signal.SIGINT)
    out, _ = demo.communicate(timeout=STOP_SECONDS)
    assert (demo.returncode, "interrupted; nothing is left running" in out) == (1, True), out
    assert living(tmp_path / "demo") == []


def test_the_demo_replaces_no_folder_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    demo = start(tmp_path)
    out, _ = demo.communicate(timeout=STOP_SECONDS)
    assert (demo.returncode, "is not empty and not the demo's own" in out) == (1, True), out
    assert (tmp_path / "own.txt").read_text() == "mine"
