"""Where the pods of a run are: the value of a label of each one's machine, read once and kept for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from tessera_api.orders import Place, Places
from tessera_operator import names
from tessera_operator.cluster import FORBIDDEN, Cluster, ClusterError, node
from tessera_operator.core.view import Pod

logger = logging.getLogger(__name__)

KEPT_SECONDS = 600.0
"""Labels of machines change seldom; a machine that is set up anew under its name is noticed within this."""


class Topology:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, tuple[float, dict[str, str]]] = {}
        """The labels of each machine, and until when they hold."""
        self._may_read = True

    async def places(self, pods: Iterable[Pod], label: str) -> Places:
        """Of every node of a run that has a machine; empty text where that says nothing. Raises ClusterError."""
        there = [(pod.name, pod.node) for pod in pods if pod.role == names.WORKER and pod.node and not pod.over]
        return Places(places=tuple([Place(node=name, at=await self._value(machine, label)) for name, machine in there]))

    async def _value(self, machine: str, label: str) -> str:
        until, labels = self._known.get(machine, (0.0, {}))
        if time.monotonic() >= until:
            labels = await self._labels(machine)
            self._known[machine] = (time.monotonic() + KEPT_SECONDS, labels)
        return labels.get(label, "")

    async def _labels(self, machine: str) -> dict[str, str]:
        try:
            document = await self._cluster.get(node(machine))
        except ClusterError as error:
            if error.status != FORBIDDEN:
                raise
            if self._may_read:
                logger.warning("nodes can't be read with rights in some namespaces only: ranks are in order of arrival")
            self._may_read = False
            return {}
        return dict((document or {"metadata": {}})["metadata"].get("labels") or {})
