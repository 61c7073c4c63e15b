"""What is shown of a real run to a real Prometheus."""

import pytest

from tessera_api.metric import Described, MetricKind
from tessera_coordinator.run_metrics import METRICS as OF_RUNS
from tessera_operator.dashboard import OF_A_RUN, OF_THE_OPERATOR
from tessera_operator.metrics import METRICS as OF_THE_OPERATOR_ITSELF
from tests.cluster.prometheus import Prometheus
from tests.e2e.installation import CHART, Installation, step_of

pytestmark = [pytest.mark.timeout(900)]


def series(metric: Described) -> str:
    """What a query asks for to learn whether there is such a metric."""
    return f"{metric.name}_count" if metric.kind is MetricKind.HISTOGRAM else metric.name


def test_prometheus_finds_every_documented_metric_and_answers_every_panel(installed: Installation) -> None:
    """On the ports that the chart's PodMonitors name; the alerts' rules are healthy there, and silent."""
    prometheus = Prometheus(installed.cluster.control, CHART / "files" / "alerts.yaml")
    prometheus.start()
    installed.train("measured", tokens="3M")
    installed.wait("it trains", lambda: step_of(installed.status("measured")) > 200, 300)
    prometheus.find()
    of_this = '{namespace="team",run="measured"}'

    def counted() -> bool:
        (found,) = prometheus.ask(f"tessera_run_committed_step{of_this} > 60")
        return bool(found)

    installed.wait("its commits are seen", counted, 60)

    metrics = (*OF_RUNS, *OF_THE_OPERATOR_ITSELF)
    answers = prometheus.ask(*(series(metric) for metric in metrics))
    assert [metric.name for metric, found in zip(metrics, answers, strict=True) if not found] == []
    queries = [
        query.replace("$namespace", "team").replace("$run", "measured").replace("$__rate_interval", "30s")
        for panel in (*OF_A_RUN, *OF_THE_OPERATOR)
        for query in panel.queries.values()
    ]

    def unanswered() -> list[str]:
        return [query for query, found in zip(queries, prometheus.ask(*queries), strict=True) if not found]

    installed.wait("there are samples enough for rates", lambda: unanswered() == [], 60)

    seen, leads, nodes = prometheus.ask(
        f"tessera_run_step{of_this}", f"tessera_coordinator_leads{of_this}", f"tessera_run_nodes{of_this}"
    )
    assert 200 < float(seen[0]["value"][1]) <= step_of(installed.status("measured")) + 200
    assert sorted((one["metric"]["pod"], one["value"][1]) for one in leads) == [
        ("measured-c0-0", "1"),
        ("measured-c1-0", "0"),
    ]
    assert {one["metric"]["role"]: one["value"][1] for one in nodes} == {"wanted": "2", "active": "2", "spare": "1"}
    states = prometheus.rule_states()
    assert {health for health, _ in states.values()} == {"ok"}
    assert {name: state for name, (_, state) in states.items() if state == "firing"} == {}
    installed.kubectl("delete", "trainingrun", "measured", "--timeout=60s")
