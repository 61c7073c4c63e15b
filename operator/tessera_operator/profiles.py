"""Accelerator profiles and the operator's settings: what the administrator decides, in one document."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tessera_api.resolved_run import Device
from tessera_operator.core.machine_signs import KNOWN, MachineSign


class _Setting(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Profile(_Setting):
    """What a node of one kind has, and what a pod on it needs. `nodes.accelerator` of a run names it."""

    device: Device = Device.CPU
    """What trainers compute on."""
    resources: dict[str, dict[str, str]] = {}
    """Requests and limits of a node's one pod, devices among them."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads that each trainer computes with; decides bits."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    environment: dict[str, str] = {}
    """Of every trainer: NCCL's settings, for example."""
    shared_memory: str = "1Gi"
    """Size of /dev/shm."""
    topology_label: Annotated[str, Field(max_length=317)] = ""
    """Label of the cluster's nodes that says what is near what (a rack, a block of switches): ranks are brought
    together by its values. Empty: they are in order of arrival."""
    host_network: bool = False
    """Pods use their machine's own network: for fabrics that no plugin brings into a pod."""
    capabilities: tuple[str, ...] = ()
    """Of the trainers' container, beside none: IPC_LOCK for RDMA."""
    annotations: dict[str, str] = {}
    """Of each pod: further networks, for example."""
    runtime_class_name: str = ""
    cache_volume: dict[str, Any] = {"emptyDir": {}}
    """Where compiled blocks are kept: a volume's source."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one accelerator, or of a node where it has none, in a currency of one's own: what runs cost is shown."""
    one_pod_per_host: bool = True
    """Keep two nodes of a run off one host."""

    def node_price(self, processes: int) -> float | None:
        """Of a node with so many trainers, an hour."""
        devices = processes if self.device is Device.CUDA else 1
        return None if self.price_per_hour is None else self.price_per_hour * devices


class Gang(StrEnum):
    """Who finds places for all of a run's nodes at once."""

    NONE = "none"
    """Nobody: each pod is placed alone."""
    KUEUE = "kueue"
    """Kueue admits a run as a whole; runs that name no queue are not its affair."""
    VOLCANO = "volcano"
    COSCHEDULING = "coscheduling"
    """The scheduler plugin of that name."""
    NATIVE = "native"
    """Kubernetes' own gang scheduling, as of 1.35 (alpha)."""


class Settings(_Setting):
    """The operator's settings, `settings.yaml` of its chart."""

    namespaces: tuple[str, ...] = ()
    """Where runs and builds are looked after; empty: everywhere."""
    trainer_image: str
    operator_image: str
    pull_policy: str = "IfNotPresent"
    coordinator_resources: dict[str, dict[str, str]] = {}
    coordinator_node_selector: dict[str, str] = {}
    coordinator_tolerations: tuple[dict[str, Any], ...] = ()
    gang: Gang = Gang.NONE
    scheduler_name: str = ""
    """Of the nodes' pods, where the gang is not Kueue's; empty: the cluster's default."""
    pod_templates: bool = False
    """Whether runs may say what is in their pods: only where somebody judges who wrote them."""
    network_policies_for: str = ""
    """The operator's namespace, from which coordinators may be reached; empty: runs get no NetworkPolicy."""
    key_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """After so many days a run that lives gets another key."""
    machine_signs: tuple[MachineSign, ...] = ()
    """Of the cluster's nodes, beside those that are known everywhere."""
    build_resources: dict[str, dict[str, str]] = {}
    profiles: dict[str, Profile] = {"cpu": Profile()}

    @property
    def signs(self) -> tuple[MachineSign, ...]:
        """All signs that are looked for."""
        return (*KNOWN, *self.machine_signs)


def read_settings(path: Path) -> Settings:
    """The document at `path`. Raises OSError, pydantic.ValidationError."""
    return Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
