"""What the operator shows to Prometheus, and that all metrics are named, described and bounded as they should be."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tessera_api.metric import Described, MetricKind
from tessera_coordinator.run_metrics import METRICS as OF_RUNS
from tessera_operator.cluster import Cluster
from tessera_operator.dashboard import OF_A_RUN, Panel, encoded
from tessera_operator.dashboard import OF_THE_OPERATOR as OF_THE_OPERATOR_PANELS
from tessera_operator.metrics import METRICS as OF_THE_OPERATOR
from tessera_operator.metrics import OperatorMetrics
from tessera_operator.metrics_document import document
from tessera_operator.wakes import Key, Pass, Wakes

ROOT = Path(__file__).parents[2]
ALL = (*OF_RUNS, *OF_THE_OPERATOR)
A, B = Key("trainingruns", "team", "a"), Key("datasetbuilds", "team", "b")


def cluster() -> Cluster:
    """One that has asked a few things, and has no connection."""
    made = Cluster(cast(Any, None))
    made.requests = {("GET", "pods", 200): 3, ("PATCH", "trainingruns", 409): 1}
    return made


def shown(metrics: OperatorMetrics) -> dict[tuple[str, tuple[str, ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_one_that_stands_by_shows_that_it_does_and_nothing_of_any_resource() -> None:
    seen = shown(OperatorMetrics(cluster(), "0.1.0"))

    assert seen["tessera_operator_leads", ()] == 0
    assert seen["tessera_operator_build_info", ("0.1.0",)] == 1
    assert not any(name.startswith("tessera_operator_passes") for name, _ in seen)


def test_one_that_leads_counts_passes_requests_and_resources() -> None:
    async def work(key: Key) -> float | None:
        if key == B:
            raise RuntimeError("broken")
        return None

    async def story() -> dict[tuple[str, tuple[str, ...]], float]:
        wakes, done = Wakes(work), asyncio.Event()
        metrics = OperatorMetrics(cluster(), "0.1.0")
        metrics.lead(wakes, {A: ("trainingruns", "Running"), B: ("trainingruns", "Running")})
        counted = wakes.on_pass

        def passed(each: Any) -> None:
            counted(each)
            if not wakes.queued and each.key == B:
                done.set()

        wakes.on_pass = passed
        working = asyncio.create_task(wakes.run())
        wakes.wake(A)
        await asyncio.sleep(0)
        wakes.wake(B)
        metrics.event("pods")
        metrics.began(70.0)
        async with asyncio.timeout(10):
            await done.wait()
        working.cancel()
        return shown(metrics)

    seen = asyncio.run(story())
    assert seen["tessera_operator_leads", ()] == 1
    assert seen["tessera_operator_passes_total", ("done", "trainingruns")] == 1
    assert seen["tessera_operator_passes_total", ("datasetbuilds", "failed")] == 1
    assert seen["tessera_operator_api_requests_total", ("200", "GET", "pods")] == 3
    assert seen["tessera_operator_api_requests_total", ("409", "PATCH", "trainingruns")] == 1
    assert seen["tessera_operator_resources", ("Running", "trainingruns")] == 2
    assert seen["tessera_operator_wake_to_decision_seconds_count", ("trainingruns",)] == 1
    assert 0 < seen["tessera_operator_wake_to_decision_seconds_sum", ("trainingruns",)] < 5
    assert seen["tessera_operator_event_timestamp_seconds", ("pods",)] > 1.7e9
    assert (
        seen["tessera_operator_start_wait_seconds_count", ()],
        seen["tessera_operator_start_wait_seconds_sum", ()],
    ) == (1, 70)


def test_a_pass_that_no_event_asked_for_is_no_answer_to_one() -> None:
    async def story() -> list[float | None]:
        async def work(key: Key) -> float | None:
            return None

        wakes, waited = Wakes(work), list[float | None]()
        done = asyncio.Event()

        def passed(each: Pass) -> None:
            waited.append(each.waited)
            done.set()

        wakes.on_pass = passed
        working = asyncio.create_task(wakes.run())
        wakes.wake(A, after=0.2)
        async with asyncio.timeout(10):
            await done.wait()
        working.cancel()
        return waited

    assert asyncio.run(story()) == [None]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_wants_it(metric: Described) -> None:
    assert re.fullmatch(r"tessera_(run|coordinator|operator)_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
    assert not re.search(r"_(ms|millis|minutes|percent|mib)\b", metric.name)
    assert set(metric.labels).isdisjoint({"namespace", "pod", "node", "rank"})


def test_no_two_metrics_share_a_name_and_the_document_tells_of_all() -> None:
    assert len({metric.name for metric in ALL}) == len(ALL)
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == document()


def test_the_dashboard_is_as_its_panels_are_and_asks_only_for_what_there_is() -> None:
    file = ROOT / "charts" / "tessera" / "files" / "dashboard.json"
    queries = [query for panel in (*OF_A_RUN, *OF_THE_OPERATOR_PANELS) for query in panel.queries.values()]
    asked = {name for query in queries for name in re.findall(r"tessera_[a-z_]+", query)}
    histograms = {metric.name for metric in ALL if metric.kind is MetricKind.HISTOGRAM}

    assert file.read_text(encoding="utf-8") == encoded()
    assert {name.removesuffix("_bucket") for name in asked} <= {metric.name for metric in ALL}
    assert {name.removesuffix("_bucket") for name in asked if name.endswith("_bucket")} <= histograms


@pytest.mark.parametrize("panel", [*OF_A_RUN, *OF_THE_OPERATOR_PANELS], ids=lambda panel: panel.title)
def test_a_panel_says_what_it_shows_and_names_its_run(panel: Panel) -> None:
    assert panel.words
    for query in panel.queries.values():
        assert "tessera_operator" in query or 'namespace="$namespace",run="$run"' in query
