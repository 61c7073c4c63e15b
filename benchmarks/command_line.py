"""Command line: how soon `tessera --help` answers, and how soon the tests' control plane does.

python benchmarks/command_line.py [--quick]: a JSON line a figure. The control plane (etcd and kube-apiserver) is left
out, and that said, where it has not been compiled (`make api-server`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from figures import line

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster.control_plane import control_plane  # noqa: E402
from tests.cluster.go_programs import Programs, cached_programs, missing  # noqa: E402

HELP_SECONDS, PLANE_SECONDS = 0.3, 5.0
TRIES, QUICK_TRIES = 10, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    tries = QUICK_TRIES if options.quick else TRIES
    values = [_seconds(_ask_for_help) for _ in range(tries)]
    print(line("`tessera --help` answers", values, "s", HELP_SECONDS, options.quick), flush=True)
    programs = cached_programs()
    if missing(programs.control_plane()):
        print("no API server has been compiled (make api-server): its start is left out", file=sys.stderr)
        return
    values = [_seconds_to_answer(programs) for _ in range(tries)]
    print(line("control plane of the tests answers", values, "s", PLANE_SECONDS, options.quick), flush=True)


def _ask_for_help() -> None:
    command = [str(Path(sys.executable).with_name("tessera")), "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)


def _seconds_to_answer(programs: Programs) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with control_plane(programs, Path(folder)):
            return time.perf_counter() - begin


def _seconds(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
