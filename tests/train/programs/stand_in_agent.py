"""A node that trains nothing: an agent with two processes in sessions of their own, which outlive it unless they are
ended.

Files in the run directory: `nodes/NAME` ({"agent", "workers"}: process ids, once all run), `exit-NAME` or `exit-all`
(an exit code: end with it, the workers are left), `end` (the run is over: end the workers and exit with that code).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-directory", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--coordinator", required=True)
    arguments = parser.parse_args()
    directory, node = arguments.run_directory, arguments.node
    workers = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]
    _write(directory / "nodes" / node, {"agent": os.getpid(), "workers": [worker.pid for worker in workers]})
    while True:
        for name in (f"exit-{node}", "exit-all"):
            if (directory / name).exists():
                print(f"{node} was told to exit")
                return int((directory / name).read_text())
        if (directory / "end").exists() or (directory / "stopped").exists():
            for worker in workers:
                worker.kill()
                worker.wait()
            return 0
        time.sleep(0.01)


def _write(path: Path, document: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}")
    part.write_text(json.dumps(document))
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
