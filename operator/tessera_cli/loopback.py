"""Ports of the loopback address."""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 20000, 32767
"""Below the kernel's usual range of ephemeral ports: a port that is free while its owner is being restarted must not be
given to somebody's outgoing connection meanwhile."""
_TRIES = 100


def free_port() -> int:
    """A port that nobody listens on at this moment. OSError when none is found."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port of 127.0.0.1 was found between {_FIRST} and {_LAST} in {_TRIES} tries")
