"""Who a node is, as it says to coordinators."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Identity:
    """Who this node is."""

    node: str
    incarnation: str
    host: str
    processes: int
    began: float = field(default_factory=time.monotonic)
    """When its agent began, monotonic seconds."""
