"""`python -m tessera_operator.metrics_document [--check] FILE`: docs/metrics.md, from the metrics' own tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tessera_api.metric import Described
from tessera_coordinator.run_metrics import METRICS as OF_RUNS
from tessera_operator.generated import keep
from tessera_operator.metrics import METRICS as OF_THE_OPERATOR

_HEAD = """# Metrics

Made by `make docs` from the tables in `operator/`; a test compares them.

The operator's pods answer on port 8080, the coordinators' on port 7401, both on `/metrics`. Namespace and pod are
labels of the scrape target. Of a run's two coordinators the one that stands by shows that it does, and nothing else.
"""


def document() -> str:
    """The whole file."""
    parts = [_HEAD, _table("Of a run, from the coordinator that leads it", OF_RUNS)]
    parts.append(_table("Of the operator", OF_THE_OPERATOR))
    return "\n".join(parts)


def _table(title: str, metrics: Iterable[Described]) -> str:
    rows = [f"| `{m.name}` | {m.kind.value} | {', '.join(m.labels)} | {m.words} |" for m in metrics]
    return "\n".join([f"## {title}", "", "| Name | Type | Labels | What it is |", "|---|---|---|---|", *rows, ""])


if __name__ == "__main__":
    sys.exit(keep("tessera_operator.metrics_document", document()))
