"""A real Prometheus in the control plane's namespace. Debian's knows no Kubernetes: what it scrapes is looked up here,
as a PodMonitor has it, and handed over in a file that Prometheus watches."""

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
from tests.cluster.processes import run, succeeds, wait_until

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
        home = self._home()
        home.mkdir(parents=True, exist_ok=True)
        self.find()
        (home / "prometheus.yaml").write_text(yaml.safe_dump(self._settings()), encoding="utf-8")
        flags = (f"--config.file={home}/prometheus.yaml", f"--storage.tsdb.path={home}/data")
        self.control.daemons.start("prometheus", ("prometheus", *flags, "--web.listen-address=127.0.0.1:9090"), CONTROL)
        ready = (*enter(CONTROL), sys.executable, "-c", _ASK, URL, '["/api/v1/status/runtimeinfo"]')
        wait_until("Prometheus", lambda: succeeds(ready), START_SECONDS)

    def _home(self) -> Path:
        return self.control.data / "prometheus"

    def find(self) -> None:
        """Every running pod's port called `metrics` is scraped from now on, with namespace and pod as labels."""
        pods = json.loads(run((*self.control.kubectl(), "get", "pods", "--all-namespaces", "-o", "json")))["items"]
        targets = [
            {"targets": [f"{pod['status']['podIP']}:{port['containerPort']}"], "labels": _labels(pod)}
            for pod in pods
            if pod["status"].get("phase") == "Running"
            for container in pod["spec"]["containers"]
            for port in container.get("ports", ())
            if port.get("name") == "metrics"
        ]
        temporary = self._home() / "targets.new"
        temporary.write_text(json.dumps(targets), encoding="utf-8")
        temporary.replace(self._home() / "targets.json")

    def _settings(self) -> dict[str, Any]:
        source = {"files": [str(self._home() / "targets.json")], "refresh_interval": SCRAPE}
        job = {"job_name": "tessera", "file_sd_configs": [source]}
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


def _labels(pod: dict[str, Any]) -> dict[str, str]:
    return {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}


def _encoded(query: str) -> str:
    return urlencode({"query": query})
