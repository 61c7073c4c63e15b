"""`python -m tessera_operator.metrics_document [--check] FILE`: docs/metrics.md, from the metrics' own tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tessera_api.exit_codes import ExitCode
from tessera_api.metric import Described
from tessera_coordinator.run_metrics import METRICS as OF_RUNS
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


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tessera_operator.metrics_document")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="only say whether the file is as it would be made")
    options = parser.parse_args()
    if options.check:
        same = options.file.exists() and options.file.read_text(encoding="utf-8") == document()
        if not same:
            print(f"{options.file} is not as the metrics are: run make docs", file=sys.stderr)
        return ExitCode.DONE if same else ExitCode.WRONG_INPUT
    options.file.write_text(document(), encoding="utf-8")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
