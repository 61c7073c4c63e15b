"""`python -m tessera_operator.dashboard [--check] FILE`: the Grafana dashboard, from the table of its panels.

Owns what is shown and by which query. What must stay true: every query names its run, a counter stands under a rate
alone, and the dashboard's uid never changes, so that links to it live.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from tessera_operator.generated import keep

UID = "tessera-run"
_RUN = 'namespace="$namespace",run="$run"'
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """One picture: queries by their legend."""

    title: str
    words: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    stacked: bool = False


def _newest(metric: str) -> str:
    """Of a run, from whichever coordinator leads."""
    return f"max(tessera_run_{metric}{{{_RUN}}})"


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{_RUN}}}[$__rate_interval])))"


OF_A_RUN = (
    Panel(
        "Phase", "Where the run stands", "none", {"{{phase}}": f"max by (phase) (tessera_run_phase{{{_RUN}}})"}, "stat"
    ),
    Panel(
        "Step",
        "Newest step and how many there are to be",
        "none",
        {"step": _newest("step"), "of": _newest("steps")},
        "stat",
    ),
    Panel(
        "Goodput",
        "Share of all node-seconds that were compute",
        "percentunit",
        {"goodput": _newest("goodput_ratio")},
        "stat",
    ),
    Panel("Loss", "Of each step, nats a token", "none", {"loss": _newest("loss")}),
    Panel("Gradient norm", "Before it is clipped", "none", {"norm": _newest("gradient_norm")}),
    Panel("Learning rate", "Of each step", "sci", {"rate": _newest("learning_rate")}),
    Panel("Throughput", "Tokens a second, all nodes together", "short", {"tokens/s": _newest("tokens_per_second")}),
    Panel("MFU", "Model FLOPs utilisation", "percentunit", {"mfu": _newest("mfu_ratio")}),
    Panel(
        "Step time",
        "Median and slowest of a hundred",
        "s",
        {"p50": _quantile(0.5, "tessera_run_step_seconds"), "p99": _quantile(0.99, "tessera_run_step_seconds")},
    ),
    Panel(
        "Where the nodes' time goes",
        "Nodes at work on each cause; what is not yet committed counts once it is",
        "none",
        {"{{cause}}": f"sum by (cause) (rate(tessera_run_node_seconds_total{{{_RUN}}}[$__rate_interval]))"},
        stacked=True,
    ),
    Panel(
        "Nodes",
        "Wanted, training, standing ready",
        "none",
        {"{{role}}": f"max by (role) (tessera_run_nodes{{{_RUN}}})"},
    ),
    Panel(
        "Generations and incidents",
        "A generation that follows no incident is growth or shrinking",
        "none",
        {"generation": _newest("generation"), "incidents": f"max(tessera_run_incidents_total{{{_RUN}}})"},
    ),
    Panel(
        "Failures",
        "What generations ended of",
        "none",
        {"{{class}}": f"max by (class) (tessera_run_failures_total{{{_RUN}}})"},
    ),
    Panel(
        "Age of the newest checkpoint",
        "So much work is lost if a node is",
        "s",
        {"age": f"time() - {_newest('commit_timestamp_seconds')}"},
    ),
    Panel(
        "Saving a checkpoint",
        "Median, from the step boundary",
        "s",
        {"p50": _quantile(0.5, "tessera_run_commit_seconds")},
    ),
    Panel(
        "Coordinators",
        "1: it leads, 0: it stands by",
        "none",
        {"{{pod}}": f"max by (pod) (tessera_coordinator_leads{{{_RUN}}})"},
    ),
)
OF_THE_OPERATOR = (
    Panel(
        "Resources",
        "By kind and phase",
        "none",
        {"{{kind}} {{phase}}": "sum by (kind, phase) (tessera_operator_resources)"},
    ),
    Panel(
        "Passes",
        "A second, by their result",
        "reqps",
        {"{{kind}} {{result}}": "sum by (kind, result) (rate(tessera_operator_passes_total[$__rate_interval]))"},
    ),
    Panel(
        "From an event to its decision",
        "Slowest of a hundred",
        "s",
        {
            "p99": "histogram_quantile(0.99, sum by (le)"
            " (rate(tessera_operator_wake_to_decision_seconds_bucket[$__rate_interval])))"
        },
    ),
    Panel(
        "Requests to the API server",
        "A second, by verb and answer",
        "reqps",
        {"{{verb}} {{code}}": "sum by (verb, code) (rate(tessera_operator_api_requests_total[$__rate_interval]))"},
    ),
    Panel("Waiting for a pass", "Resources in the queue", "none", {"queued": "max(tessera_operator_queued)"}),
    Panel("Operators", "1: it leads", "none", {"{{pod}}": "max by (pod) (tessera_operator_leads)"}),
)


def dashboard() -> dict[str, Any]:
    """The document as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, rows in (("Run", OF_A_RUN), ("Operator", OF_THE_OPERATOR)):
        panels.append(_row(title, len(panels) + 1, top))
        for place, panel in enumerate(rows):
            grid = {
                "x": place % _COLUMNS * _WIDTH,
                "y": top + 1 + place // _COLUMNS * _HEIGHT,
                "w": _WIDTH,
                "h": _HEIGHT,
            }
            panels.append(_panel(panel, len(panels) + 1, grid))
        top += 1 + -(-len(rows) // _COLUMNS) * _HEIGHT
    return {
        "uid": UID,
        "title": "Tessera",
        "tags": ["tessera"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), _choice("namespace", "tessera_coordinator_leads"), _choice_of_run()]},
        "panels": panels,
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _choice(label: str, series: str) -> dict[str, Any]:
    query = f"label_values({series}, {label})"
    return {"name": label, "type": "query", "datasource": _uid(), "query": query, "refresh": 2, "sort": 1}


def _choice_of_run() -> dict[str, Any]:
    return _choice("run", 'tessera_coordinator_leads{namespace="$namespace"}')


def _uid() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${source}"}


def _row(title: str, number: int, top: int) -> dict[str, Any]:
    return {"id": number, "type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}, "panels": []}


def _panel(panel: Panel, number: int, grid: dict[str, int]) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 60 if panel.stacked else 0}
    targets = [
        {"refId": chr(ord("A") + place), "datasource": _uid(), "expr": query, "legendFormat": legend}
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.words,
        "datasource": _uid(),
        "gridPos": grid,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom if panel.kind == "timeseries" else {}}},
        "targets": targets,
    }


def encoded() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(keep("tessera_operator.dashboard", encoded()))
