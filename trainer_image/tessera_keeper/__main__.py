"""`python -m tessera_keeper`: the keeper of one node, under its agent.

Its standard input is a local socket to the agent, and it ends when that does. See `control` for what is said there.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from functools import cache
from pathlib import Path

from tessera_api.keys import ring_of
from tessera_api.resolved_run import read_resolved_run
from tessera_api.run_directory import RunDirectory
from tessera_keeper.code_carrier import CodeCarrier
from tessera_keeper.control import Control
from tessera_keeper.keeping import Keeping
from tessera_keeper.line import DocumentLine
from tessera_keeper.line_server import LineServer
from tessera_keeper.peers import PeerServer
from tessera_store import open_store


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tessera_keeper", description="Holds a node's snapshots.")
    parser.add_argument("--run-directory", type=Path, required=True, metavar="DIR")
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH")
    parser.add_argument("--compiled-code", type=Path, metavar="DIR", help="carry it between this run's nodes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    directory = RunDirectory(arguments.run_directory)
    resolved = read_resolved_run(directory.run_json)
    ring = ring_of(directory)
    agent = DocumentLine(socket.socket(fileno=0))
    carrier = None
    if arguments.compiled_code is not None:
        carrier = CodeCarrier(arguments.compiled_code, cache(lambda: open_store(resolved.storage)), ring)
    control = Control(agent, ring, carrier)
    keeping = Keeping(lambda: open_store(resolved.storage), control.report)
    server = PeerServer(keeping.shelf, ring)
    LineServer(arguments.socket, keeping)
    control.serve(keeping, server.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
