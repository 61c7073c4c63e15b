"""The operator's own metrics: what it does, how fast, and how it reaches the API server.

Owns which there are (`METRICS`, from which docs/metrics.md is made), and the registry. What must stay true: no label
names a run or a namespace, so that the number of series does not grow with what is looked after; a run's own metrics
are its coordinator's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tessera_api.metric import Described, MetricKind
from tessera_operator.cluster import Cluster
from tessera_operator.wakes import Pass, Wakes

_C, _G, _H = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

METRICS = (
    Described("tessera_operator_build_info", _G, "1; the version", ("version",)),
    Described("tessera_operator_leads", _G, "1 while this operator leads, 0 while it stands by"),
    Described("tessera_operator_passes_total", _C, "Passes over a resource by their result", ("kind", "result")),
    Described("tessera_operator_pass_seconds", _H, "How long a pass took", ("kind",)),
    Described("tessera_operator_wake_to_decision_seconds", _H, "From an event to the end of its pass", ("kind",)),
    Described("tessera_operator_start_wait_seconds", _H, "From a run's creation to its first start: datasets, queue"),
    Described("tessera_operator_queued", _G, "Resources that wait for a pass"),
    Described("tessera_operator_api_requests_total", _C, "Requests to the API server", ("verb", "resource", "code")),
    Described("tessera_operator_event_timestamp_seconds", _G, "When a watch last brought an event", ("resource",)),
    Described("tessera_operator_resources", _G, "Resources by kind and phase", ("kind", "phase")),
)
"""Everything that is shown here."""

Samples = Mapping[tuple[str, ...], float]
"""Values by their labels."""
_BY_NAME = {described.name: described for described in METRICS}
_WAITS = tuple(float(2**power) for power in range(17))
"""1 s to 18 h."""
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class OperatorMetrics(Collector):
    """See the module. Stands by until `lead` is called."""

    def __init__(self, cluster: Cluster, version: str) -> None:
        self.registry = CollectorRegistry()
        self._cluster, self._version = cluster, version
        self._wakes: Wakes | None = None
        self._phases: Mapping[object, tuple[str, str]] = {}
        self._passes: Counter[tuple[str, str]] = Counter()
        self._events: dict[str, float] = {}
        self._took, self._waited = (
            Histogram(name, _BY_NAME[name].words, ["kind"], buckets=_BUCKETS, registry=self.registry)
            for name in ("tessera_operator_pass_seconds", "tessera_operator_wake_to_decision_seconds")
        )
        name = "tessera_operator_start_wait_seconds"
        self._began = Histogram(name, _BY_NAME[name].words, buckets=_WAITS, registry=self.registry)
        self.registry.register(self)
        prometheus_client.ProcessCollector(registry=self.registry)

    def lead(self, wakes: Wakes, phases: Mapping[object, tuple[str, str]]) -> None:
        """From now on this operator leads; `phases` is kept by the reconciler: kind and phase of each resource."""
        self._wakes, self._phases = wakes, phases
        wakes.on_pass = self._passed

    def event(self, resource: str) -> None:
        """A watch has brought an event of this resource."""
        self._events[resource] = time.time()

    def began(self, waited: float) -> None:
        """A run has begun, so many seconds after its creation."""
        self._began.observe(waited)

    def _passed(self, done: Pass) -> None:
        self._passes[done.key.kind, "done" if done.well else "failed"] += 1
        self._took.labels(done.key.kind).observe(done.seconds)
        if done.waited is not None:
            self._waited.labels(done.key.kind).observe(done.waited)

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        yield _gauge("tessera_operator_build_info", {(self._version,): 1.0})
        yield _gauge("tessera_operator_leads", {(): 0.0 if self._wakes is None else 1.0})
        requests = self._cluster.requests.items()
        codes: Samples = {(verb, resource, str(code)): float(count) for (verb, resource, code), count in requests}
        yield _counter("tessera_operator_api_requests_total", codes)
        if self._wakes is None:
            return
        yield _counter("tessera_operator_passes_total", _floats(self._passes))
        yield _gauge("tessera_operator_queued", {(): float(self._wakes.queued)})
        yield _gauge("tessera_operator_event_timestamp_seconds", {(name,): at for name, at in self._events.items()})
        yield _gauge("tessera_operator_resources", _floats(Counter(self._phases.values())))


def _floats(counts: Mapping[tuple[str, str], int]) -> Samples:
    return {labels: float(count) for labels, count in counts.items()}


def _gauge(name: str, samples: Samples) -> Metric:
    described = _BY_NAME[name]
    family = GaugeMetricFamily(name, described.words, labels=described.labels)
    for labels, value in sorted(samples.items()):
        family.add_metric(labels, value)
    return family


def _counter(name: str, samples: Samples) -> Metric:
    described = _BY_NAME[name]
    family = CounterMetricFamily(name, described.words, labels=described.labels)
    for labels, value in sorted(samples.items()):
        family.add_metric(labels, value)
    return family
