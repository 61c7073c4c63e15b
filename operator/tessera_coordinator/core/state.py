"""Where a run stands between its generations."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """See `membership`, which moves from one to the next."""

    FORMING = "forming"
    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"
