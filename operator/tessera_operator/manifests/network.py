"""Who may speak to a run's pods, where the administrator wants it said by a NetworkPolicy too."""

from __future__ import annotations

from tessera_operator import names
from tessera_operator.manifests.pods import Manifest
from tessera_operator.manifests.run import Owner


def network_policy(owner: Owner, operator_namespace: str) -> Manifest:
    """Into the run's pods come its own pods, the operator to the coordinators, and whoever scrapes their metrics."""
    ours = {"podSelector": {"matchLabels": {names.RUN_LABEL: owner.name}}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {
            "matchLabels": {"app.kubernetes.io/name": "tessera", "app.kubernetes.io/component": "operator"}
        },
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(names.service_name(owner.name)),
        "spec": {
            "podSelector": {"matchLabels": {names.RUN_LABEL: owner.name}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [ours]},
                {"from": [operator], "ports": [{"protocol": "TCP", "port": names.PORT}]},
                {"ports": [{"protocol": "TCP", "port": names.METRICS_PORT}]},
            ],
        },
    }
