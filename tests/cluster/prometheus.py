"""A real Prometheus in the control plane's namespace, which finds what to scrape through the API server."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.cluster.control import Control
from tests.cluster.network import CONTROL, enter
from tests.cluster.processes import succeeds, wait_until

URL = "http://127.0.0.1:9090"
SCRAPE = "2s"
START_SECONDS = 60.0
_ASK = """
import json, sys, urllib.request
for place in json.loads(sys.argv[2]):
    with urllib.request.urlopen(sys.argv[1] + place, timeout=30) as answer:
        print(json.dumps(json.load(answer)["data"]))
"""


@dataclass(frozen=True)
class Prometheus:
    """`start` it, then ask."""

    control: Control
    rules: Path

    def start(self) -> None:
        """Until it is ready; its data is the cluster's."""
        home = self.control.data / "prometheus"
        home.mkdir(parents=True, exist_ok=True)
        (home / "prometheus.yaml").write_text(yaml.safe_dump(self._settings()), encoding="utf-8")
        flags = (f"--config.file={home}/prometheus.yaml", f"--storage.tsdb.path={home}/data")
        self.control.daemons.start("prometheus", ("prometheus", *flags, "--web.listen-address=127.0.0.1:9090"), CONTROL)
        ready = (*enter(CONTROL), sys.executable, "-c", _ASK, URL, '["/api/v1/status/runtimeinfo"]')
        wait_until("Prometheus", lambda: succeeds(ready), START_SECONDS)

    def _settings(self) -> dict[str, Any]:
        """Every pod's port called `metrics`, as a PodMonitor would have it."""
        source = {"role": "pod", "kubeconfig_file": str(self.control.identities.folder / "admin.kubeconfig")}
        found = "__meta_kubernetes_pod_container_port_name"
        relabelled = [
            {"source_labels": [found], "regex": "metrics", "action": "keep"},
            {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        ]
        job = {"job_name": "tessera", "kubernetes_sd_configs": [source], "relabel_configs": relabelled}
        return {
            "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
            "rule_files": [str(self.rules)],
            "scrape_configs": [job],
        }

    def ask(self, *queries: str) -> list[list[dict[str, Any]]]:
        """The result of each query, as of now."""
        return [data["result"] for data in self._get([f"/api/v1/query?{_encoded(query)}" for query in queries])]

    def rule_states(self) -> dict[str, tuple[str, str]]:
        """Of each alert whether its rule is healthy, and its state."""
        (data,) = self._get(["/api/v1/rules"])
        rules = [rule for group in data["groups"] for rule in group["rules"]]
        return {rule["name"]: (rule["health"], rule["state"]) for rule in rules}

    def _get(self, places: list[str]) -> list[dict[str, Any]]:
        command = [*enter(CONTROL), sys.executable, "-c", _ASK, URL, json.dumps(places)]
        done = subprocess.run(command, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def _encoded(query: str) -> str:
    return urlencode({"query": query})
