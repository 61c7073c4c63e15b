"""Who a node is, as it says to coordinators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """Who this node is."""

    node: str
    incarnation: str
    host: str
    processes: int
