"""`python -m tessera_trainer.warm`: the one warm process of a node. It has torch imported, and forks trainers.

What must stay true: it has one thread and never touches a device (both are checked; otherwise everybody is told to
start cold); its trainers die with it, and it dies with the agent. What it does for them: `warm_server`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tessera_trainer import proof
from tessera_trainer.warm_client import SET_CHILD_SUBREAPER, die_with_parent
from tessera_trainer.warm_server import CONNECTIONS, Warm


def reason_not_to_fork() -> str:
    """Why this process, all imported, must not fork trainers; empty if it may."""
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        names = sorted(Path(f"/proc/self/task/{each}/comm").read_text().strip() for each in threads)
        return f"its imports started threads ({', '.join(names)}), and a process with threads cannot be forked safely"
    opened = (_target(each) for each in os.listdir("/proc/self/fd"))
    if devices := sorted({path for path in opened if path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri"))}):
        return f"its imports opened devices ({', '.join(devices)}), whose state cannot be forked"
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        return "its imports initialised CUDA, whose state cannot be forked"
    return ""


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""  # the one that listed the folder


def _listen(path: Path) -> socket.socket:
    """The socket, bound before the imports so that early clients wait instead of starting cold."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SystemExit(f"{path.parent} must belong to this user and to nobody else (mode 0700)")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = f"/proc/self/fd/{folder}/{path.name}"  # a socket's own path may have 107 bytes only
    Path(place).unlink(missing_ok=True)
    listener.bind(place)
    listener.listen(CONNECTIONS)
    os.close(folder)
    return listener


def main(arguments: Sequence[str]) -> None:
    """Owns the command line: `--parent` dies with that process, `--import` names modules to have ready."""
    parser = argparse.ArgumentParser(prog="tessera_trainer.warm", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--import", dest="modules", default="", help="module names, separated by commas")
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    loaded, began = dict(os.environ), time.monotonic()
    listener = _listen(options.socket)
    proof.raise_open_files()
    _become_subreaper()
    unfit = _import(options.modules) or reason_not_to_fork()
    gc.collect()
    gc.freeze()  # or the collector's marks would copy every page in each fork
    _log(f"unfit: {unfit}; every trainer starts cold" if unfit else f"ready after {time.monotonic() - began:.2f} s")
    Warm(listener, loaded, unfit, _log).serve()


def _import(modules: str) -> str:
    """Imports what is named; says what could not be, which a cold start will show in full."""
    for name in filter(None, modules.split(",")):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{name} cannot be imported: {error}"
    return ""


def _log(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} tessera warm {os.getpid()}: {text}", flush=True)


def _become_subreaper() -> None:
    """What a trainer leaves behind becomes our child, so that we see its end."""
    ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
