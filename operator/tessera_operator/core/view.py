"""What a pass sees of a run: values, read once, from which everything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera_api.dataset_build import DatasetBuildStatus
from tessera_api.resolved_run import ResolvedRun
from tessera_api.training_run import TrainingRun
from tessera_api.training_run_status import TrainingRunStatus
from tessera_operator import names
from tessera_operator.core.machine_signs import MachineWarning
from tessera_operator.core.queue import Queue


@dataclass(frozen=True)
class Pod:
    """One pod of a run."""

    name: str
    uid: str
    role: str
    slot: str
    attempt: int
    phase: str
    """Kubernetes' word: Pending, Running, Succeeded, Failed, Unknown."""
    node: str | None = None
    """Where it was placed."""
    created: float = 0.0
    """Unix seconds."""
    deleting: bool = False
    exit_code: int | None = None
    """Of its container, the last time that it ended."""
    message: str = ""
    """Why it waits, or its last words."""
    final: TrainingRunStatus | None = None
    """The run's final status, which a coordinator leaves behind."""
    out_of_memory: bool = False
    """It ended at its memory limit."""
    avoids: frozenset[str] = frozenset()
    """Nodes on which it may not be placed, as it was made."""

    @property
    def over(self) -> bool:
        """It will do nothing more."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class Machine:
    """What Kubernetes knows of a node: the second source before anything is destroyed."""

    ready: bool
    lease_age: float | None
    """By how many seconds its kubelet's last renewal lies behind the newest of any node's: while the API server is
    away nobody renews, and nobody is to be blamed for it. None when there is no lease."""
    renewed: float = 0.0
    """When that was, Unix seconds."""
    warning: MachineWarning | None = None
    """That it is about to end, or that its devices are sick."""

    @property
    def suspect(self) -> bool:
        """Whether Kubernetes doubts it too."""
        return not self.ready or self.lease_age is None or self.lease_age > LEASE_SECONDS


LEASE_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """The newest answer of the run's coordinator."""

    status: TrainingRunStatus
    counted: frozenset[str]
    """Nodes that it counts, training or spare."""
    missing: frozenset[str]
    """Nodes that it once counted and has not for some seconds of answers."""
    closed: str | None
    age: float
    """Seconds since."""
    coordinators: frozenset[str] = frozenset()
    """Pods that lead or stand by; empty where the run has one coordinator, which answers."""
    training: frozenset[str] = frozenset()
    """Nodes of the open generation that can be asked to leave it; none where the coordinator does not know how."""

    @property
    def fresh(self) -> bool:
        """Whether it may be acted upon."""
        return self.age <= ANSWER_SECONDS

    def counts(self, pod: Pod) -> bool:
        """Whether the run knows that this pod lives."""
        if pod.role == names.COORDINATOR:
            return pod.name in self.coordinators or not self.coordinators
        return pod.name in self.counted


ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class OriginSeen:
    """The run that the first weights come from."""

    status: TrainingRunStatus
    start: ResolvedRun | None
    """Its first start; None where it has not begun, or nobody knows it any more."""


@dataclass(frozen=True)
class View:
    """Everything that decides about one run."""

    run: TrainingRun
    created: float
    generation: int
    now: float
    """Unix seconds."""
    pods: tuple[Pod, ...] = ()
    start: ResolvedRun | None = None
    """The start that is under way; None before it has begun."""
    datasets: Mapping[str, DatasetBuildStatus | None] = field(default_factory=dict)
    """Of every dataset of the mixture; None: there is no such build."""
    origin: OriginSeen | None = None
    """Of a run that starts from another one; None: there is no such run."""
    profiles: frozenset[str] = frozenset()
    pod_templates: bool = False
    """Whether runs may say what is in their pods."""
    queues: bool = False
    """Whether there are queues to wait in."""
    queue: Queue | None = None
    """Of a run that has to wait for its nodes in one of Kueue's."""
    machines: Mapping[str, Machine | None] = field(default_factory=dict)
    """Those that were looked at, by name; None: it does not exist any more. Nobody looks at the node of a pod that the
    run counts: at a hundred runs that would be most of all requests."""
    answer: Answer | None = None
    others: tuple[Pod, ...] = ()
    """Of older runs of the name: they are about to go, and their names are in the way of this one's."""
    drill_request: str = ""
    """The value of the annotation that asks for a drill."""
    rotate_request: str = ""
    """The value of the annotation that asks for another key."""
    key_days: int = 30
    """After so many days a key is followed by another."""
    lost_elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Nodes that other runs have lost, each with the time."""

    @property
    def start_number(self) -> int:
        """The how-manieth start is under way, or comes next."""
        return self.status.start or 1

    @property
    def status(self) -> TrainingRunStatus:
        """As it stands in the resource."""
        return self.run.status or TrainingRunStatus()

    def warned(self, pod: Pod) -> MachineWarning | None:
        """Whether the node of a pod bears a sign that the pod had better be elsewhere."""
        machine = self.machines.get(pod.node) if pod.node is not None else None
        return machine.warning if machine is not None else None

    def suspect(self, pod: Pod) -> bool:
        """Whether Kubernetes doubts the node of a pod."""
        if pod.node is None or pod.node not in self.machines:
            return False
        machine = self.machines[pod.node]
        return machine is None or machine.suspect
