"""What a metric is called, and what it means: the words that docs/metrics.md and /metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """Prometheus' types, as far as they are used."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Described:
    """One metric. A counter's name ends in `_total`."""

    name: str
    kind: MetricKind
    words: str
    labels: tuple[str, ...] = ()
