"""Recovery: a run of 20 million parameters on 3 nodes and a spare is hurt in every way that it promises to survive.

`benchmarks/recovery.py [--quick] [--only NAME ...] [--tries N] [--work DIR]`. Times of single tries go to standard
error. Tries follow each other in one run; between them what was lost is replaced, and the spare gets ready.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import recovery_compiled
import recovery_coordinator
import recovery_ends
import recovery_hangs
import recovery_nodes

FIGURES: dict[str, tuple[Callable[[Path, int, bool], None], int]] = {
    "killed": (recovery_nodes.killed, 10),
    "silent": (recovery_nodes.silent, 10),
    "worker": (recovery_nodes.worker_killed, 10),
    "worker-compiled": (recovery_compiled.worker_killed, 10),
    "new-node-compiled": (recovery_compiled.new_node, 3),
    "stuck": (recovery_nodes.stuck, 3),
    "stopped": (recovery_hangs.stopped, 10),
    "hogged": (recovery_hangs.hogged, 10),
    "coordinator": (recovery_coordinator.away, 3),
    "coordinator-and-node": (recovery_coordinator.away_and_node_killed, 3),
    "paused": (recovery_coordinator.paused, 3),
    "cut-off": (recovery_coordinator.cut_off, 3),
    "two": (recovery_coordinator.two_alive, 3),
    "warm-killed": (recovery_ends.warm_killed, 5),
    "agent-killed": (recovery_ends.agent_killed, 5),
    "local-killed": (recovery_ends.local_killed, 3),
    "writer": (recovery_ends.writer_stopped, 3),
}
"""Name: what measures it, and its tries."""
QUICK = ("killed",)
"""What is measured in less than a minute, once, with a model of a million parameters."""


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is frozen or cut off is undone on the way out
    failed = []
    with tempfile.TemporaryDirectory(prefix="recovery-", ignore_cleanup_errors=True) as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name in options.only or (QUICK if options.quick else FIGURES):
            measure, tries = FIGURES[name]
            began = time.monotonic()
            try:
                measure(work, options.tries or (1 if options.quick else tries), options.quick)
            except Exception as error:  # noqa: BLE001 - what one figure did not come to is said, and the others are measured
                failed.append(f"{name}: {type(error).__name__}: {error}")
                print(failed[-1], file=sys.stderr, flush=True)
            print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    sys.exit("\n".join(failed) or None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}, once, a small model")
    parser.add_argument("--only", nargs="+", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--tries", type=int, metavar="N")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep dataset and runs here; default: a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
