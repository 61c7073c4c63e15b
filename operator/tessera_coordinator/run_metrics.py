"""The metrics of one run, as the coordinator that leads it knows them; of one that stands by, that it does.

Owns which there are (`METRICS`, from which docs/metrics.md is made). What must stay true: no counter of a coordinator
falls, and another that takes the lead goes on from the journal, seconds behind at most; a run has as many series with a
hundred nodes as with one; namespace and pod are labels of the target, not of a metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tessera_api.failure import FailureClass
from tessera_api.journal import Event, EventName, IncidentLine, JournalRecord, StepLine
from tessera_api.metric import Described, MetricKind
from tessera_api.resolved_run import ResolvedRun
from tessera_coordinator.coordinator import Coordinator
from tessera_coordinator.core.ledger import cost

_C, _G, _H = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

METRICS = (
    Described("tessera_coordinator_leads", _G, "1 while this coordinator leads, 0 while it stands by", ("run",)),
    Described("tessera_coordinator_term", _G, "The term under which it leads", ("run",)),
    Described(
        "tessera_run_info",
        _G,
        "1; what does not change during a start",
        ("run", "method", "model", "accelerator", "start"),
    ),
    Described("tessera_run_phase", _G, "1 for the phase that the run is in", ("run", "phase")),
    Described("tessera_run_step", _G, "The newest optimizer step", ("run",)),
    Described("tessera_run_steps", _G, "How many steps the run is to have", ("run",)),
    Described("tessera_run_tokens", _G, "Tokens trained on by the newest step", ("run",)),
    Described("tessera_run_step_timestamp_seconds", _G, "When the newest step was completed, Unix time", ("run",)),
    Described("tessera_run_loss", _G, "Loss of the newest step, nats a token", ("run",)),
    Described("tessera_run_gradient_norm", _G, "Norm of the newest step's gradient, before it is clipped", ("run",)),
    Described("tessera_run_learning_rate", _G, "Learning rate of the newest step", ("run",)),
    Described("tessera_run_tokens_per_second", _G, "Tokens a second in the newest step, all nodes together", ("run",)),
    Described("tessera_run_mfu_ratio", _G, "Model FLOPs utilisation in the newest step, 0 to 1", ("run",)),
    Described("tessera_run_committed_step", _G, "The step of the newest checkpoint that stands in the log", ("run",)),
    Described("tessera_run_commit_timestamp_seconds", _G, "When it was committed, Unix time", ("run",)),
    Described("tessera_run_node_seconds_total", _C, "Settled node-seconds by where they went", ("run", "cause")),
    Described("tessera_run_uncommitted_node_seconds", _G, "Node-seconds computed since the newest commit", ("run",)),
    Described("tessera_run_goodput_ratio", _G, "Share of all node-seconds that were compute, 0 to 1", ("run",)),
    Described("tessera_run_cost", _G, "What all node-seconds cost so far, where a price is given", ("run",)),
    Described("tessera_run_generation", _G, "The newest generation", ("run",)),
    Described("tessera_run_nodes", _G, "Nodes: wanted, active in the open generation, spare", ("run", "role")),
    Described("tessera_run_incidents_total", _C, "Generations that ended unplanned", ("run",)),
    Described("tessera_run_failures_total", _C, "Of them, those that are judged, by class", ("run", "class")),
    Described("tessera_run_lost_steps_total", _C, "Steps that had to be computed again after incidents", ("run",)),
    Described("tessera_run_storage_up", _G, "0 while the log cannot be written", ("run",)),
    Described("tessera_run_step_seconds", _H, "How long each step took", ("run",)),
    Described("tessera_run_commit_seconds", _H, "From a step boundary until its checkpoint stood in the log", ("run",)),
    Described("tessera_run_recovery_seconds", _H, "From an incident's detection to the next step", ("run",)),
)
"""Everything that is shown here."""

_BY_NAME = {described.name: described for described in METRICS}
_STEP_BUCKETS = tuple(0.05 * 2**power for power in range(14))
_LONG_BUCKETS = tuple(0.5 * 2**power for power in range(14))


@dataclass
class _Newest:
    step: StepLine | None = None
    committed: float | None = None
    committed_at: float = 0.0
    storage_up: bool = True


class RunMetrics(Collector):
    """See the module. Until `lead` is called it stands by."""

    def __init__(self, registry: CollectorRegistry, resolved: ResolvedRun) -> None:
        self._resolved, self._run = resolved, resolved.name
        self._coordinator: Coordinator | None = None
        self._newest = _Newest()
        self._recovered: set[int] = set()
        self._steps, self._commits, self._recoveries = (
            Histogram(name, _BY_NAME[name].words, ["run"], buckets=buckets, registry=registry).labels(self._run)
            for name, buckets in (
                ("tessera_run_step_seconds", _STEP_BUCKETS),
                ("tessera_run_commit_seconds", _LONG_BUCKETS),
                ("tessera_run_recovery_seconds", _LONG_BUCKETS),
            )
        )
        registry.register(self)

    def lead(self, coordinator: Coordinator, newest: StepLine | None) -> None:
        """From now on `coordinator` leads; `newest` is the last step of whoever led before."""
        self._coordinator, self._newest.step = coordinator, newest
        history = coordinator.scribe.history
        if history.newest is not None:
            self._newest.committed, self._newest.committed_at = float(history.newest.step), history.newest.time
        self._recovered = {incident.number for incident in coordinator.accounts.incidents.recent()}
        coordinator.records.watch = self.record

    def record(self, record: JournalRecord) -> None:
        """Something was recorded."""
        match record:
            case StepLine():
                self._newest.step = record
                if record.seconds is not None:
                    self._steps.observe(record.seconds)
            case IncidentLine(incident=incident):
                if incident.next_step is not None and incident.number not in self._recovered:
                    self._recovered.add(incident.number)
                    self._recoveries.observe(max(0.0, incident.next_step - incident.detected))
            case Event(name=EventName.COMMITTED, numbers=numbers):
                self._newest.committed, self._newest.committed_at = numbers.get("step"), record.time
                self._commits.observe(numbers.get("seconds", 0.0))
            case Event(name=EventName.STORAGE_TROUBLE | EventName.STORAGE_BACK as name):
                self._newest.storage_up = name is EventName.STORAGE_BACK
            case _:
                pass

    # ---- what is shown ---------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        yield _gauge("tessera_coordinator_leads", (0.0 if self._coordinator is None else 1.0, self._run))
        if self._coordinator is None:
            return
        yield from self._of_the_run(self._coordinator)
        yield from self._of_the_newest_step()
        yield from self._of_the_nodes(self._coordinator)

    def _of_the_run(self, coordinator: Coordinator) -> Iterator[Metric]:
        spec, model = self._resolved.run.spec, self._resolved.run.spec.model
        kind = model.recipe or (f"from {model.from_.words()}" if model.from_ is not None else "")
        labels = (spec.method.value, kind, spec.nodes.accelerator, str(self._resolved.start))
        yield _gauge("tessera_coordinator_term", (float(coordinator.term), self._run))
        yield _gauge("tessera_run_info", (1.0, self._run, *labels))
        phase = str(coordinator.status().get("phase", ""))
        yield _gauge("tessera_run_phase", (1.0, self._run, phase))
        yield _gauge("tessera_run_steps", (float(self._resolved.total_steps), self._run))
        yield _gauge("tessera_run_storage_up", (float(self._newest.storage_up), self._run))
        if self._newest.committed is not None:
            yield _gauge("tessera_run_committed_step", (self._newest.committed, self._run))
            yield _gauge("tessera_run_commit_timestamp_seconds", (self._newest.committed_at, self._run))

    def _of_the_newest_step(self) -> Iterator[Metric]:
        step = self._newest.step
        if step is None:
            return
        shown = {
            "step": step.step,
            "tokens": step.tokens,
            "step_timestamp_seconds": step.time,
            "loss": step.loss,
            "gradient_norm": step.grad_norm,
            "learning_rate": step.lr,
            "tokens_per_second": step.tokens_per_second,
            "mfu_ratio": step.mfu,
        }
        for name, value in shown.items():
            if value is not None:
                yield _gauge(f"tessera_run_{name}", (float(value), self._run))

    def _of_the_nodes(self, coordinator: Coordinator) -> Iterator[Metric]:
        accounts, answer, membership = coordinator.accounts, coordinator.answer(), coordinator.membership
        seconds = [(value, self._run, cause) for cause, value in accounts.published.items()]
        yield _counter("tessera_run_node_seconds_total", *seconds)
        yield _gauge("tessera_run_uncommitted_node_seconds", (accounts.ledger.uncommitted, self._run))
        goodput = accounts.ledger.goodput()
        if goodput is not None:
            yield _gauge("tessera_run_goodput_ratio", (goodput, self._run))
        if self._resolved.node_price is not None:
            yield _gauge("tessera_run_cost", (cost(accounts.ledger.total, self._resolved.node_price), self._run))
        generation = membership.generation
        yield _gauge("tessera_run_generation", (float(generation.generation if generation else 0), self._run))
        counts = {"wanted": membership.wanted.count, "active": len(answer.active), "spare": len(answer.spare)}
        yield _gauge("tessera_run_nodes", *((float(count), self._run, role) for role, count in counts.items()))
        yield _counter("tessera_run_incidents_total", (float(accounts.incidents.count), self._run))
        classes = accounts.incidents.classes
        yield _counter(
            "tessera_run_failures_total", *((float(classes[one]), self._run, one.value) for one in FailureClass)
        )
        yield _counter("tessera_run_lost_steps_total", (float(accounts.incidents.steps_lost), self._run))


def _gauge(name: str, *samples: tuple[float | str, ...]) -> Metric:
    described = _BY_NAME[name]
    return _filled(GaugeMetricFamily(name, described.words, labels=described.labels), samples)


def _counter(name: str, *samples: tuple[float | str, ...]) -> Metric:
    described = _BY_NAME[name]
    return _filled(CounterMetricFamily(name, described.words, labels=described.labels), samples)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, samples: tuple[tuple[float | str, ...], ...]
) -> GaugeMetricFamily | CounterMetricFamily:
    for value, *labels in samples:
        family.add_metric([str(label) for label in labels], float(value))
    return family
