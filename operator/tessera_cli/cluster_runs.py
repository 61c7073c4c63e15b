"""Runs on a cluster, as the command line reaches them: the one user of the Kubernetes client here. Errors are mapped to
`Refused`."""

from __future__ import annotations

from typing import Any

import urllib3
from kubernetes import client, config

from tessera_api.exit_codes import ExitCode
from tessera_api.resource import GROUP, VERSION
from tessera_cli.refusal import Refused

PLURAL = "trainingruns"
REQUEST_SECONDS = 15.0

Json = dict[str, Any]


class ClusterRun:
    """One run. `context`: of the kubeconfig; None: its current one. `kubeconfig`: None: where kubectl looks for it."""

    def __init__(self, namespace: str, name: str, context: str | None = None, kubeconfig: str | None = None) -> None:
        self.namespace, self.name = namespace, name
        try:
            self._api = client.CustomObjectsApi(config.new_client_from_config(kubeconfig, context))
        except config.ConfigException as error:
            raise Refused(f"no cluster can be reached: {error}") from error

    def read(self) -> Json:
        """The whole resource. Raises Refused where there is none, or no answer."""
        return self._ask(self._api.get_namespaced_custom_object)

    def annotate(self, key: str, value: str) -> None:
        """Raises Refused."""
        change = {"metadata": {"annotations": {key: value}}}
        self._ask(self._api.patch_namespaced_custom_object, change, _content_type="application/merge-patch+json")

    def _ask(self, call: Any, *more: Any, **words: Any) -> Json:
        where = (GROUP, VERSION, self.namespace, PLURAL, self.name)
        try:
            found: Json = call(*where, *more, **words, _request_timeout=REQUEST_SECONDS)
        except client.ApiException as error:
            if error.status == 404:
                raise Refused(f"there is no TrainingRun {self.name} in namespace {self.namespace}") from error
            raise Refused(f"the cluster refuses: {error.status} {error.reason}", ExitCode.UNAVAILABLE) from error
        except urllib3.exceptions.HTTPError as error:
            raise Refused(f"the cluster does not answer: {error}", ExitCode.UNAVAILABLE) from error
        return found
