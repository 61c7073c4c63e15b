"""What the stories say and ask: manifests applied, status read, conditions waited for."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import Cluster

DATASET = """
apiVersion: tessera.dev/v1alpha1
kind: DatasetBuild
metadata: {name: stdlib}
spec:
  content: text
  sources:
    - name: stdlib
      uri: file:///usr/lib/python3.11
      include: ["json/*.py", "email/*.py", "asyncio/*.py", "http/*.py"]
      format: text
      licence: PSF-2.0
      provenance:
        {owner: Python Software Foundation, collected: "2026-11-01", method: installed package, synthetic: false}
  tokenizer: {train: {vocabularySize: 512}}
  heldOut: {share: "0.05"}
  output: {uri: s3://models/datasets, secretRef: {name: models-s3}}
"""

RUN = """
apiVersion: tessera.dev/v1alpha1
kind: TrainingRun
metadata: {name: NAME}
spec:
  method: pretrain
  model: {recipe: llama-1m}
  data: {sequenceLength: 128, mix: [{dataset: stdlib, weight: "1"}]}
  training:
    tokens: TOKENS
    seed: 7
    globalBatch: 8
    unit: 2
    learningRate: "1e-3"
    schedule: {kind: cosine, warmupSteps: 5}
  nodes: {count: 2, min: 1, max: 2, spares: 1, accelerator: cpu}
  checkpoint: {every: 20, keep: 2}
  storage: {uri: s3://models/runs, secretRef: {name: models-s3}}
"""

Json = dict[str, Any]


@dataclass(frozen=True)
class Installation:
    """Tessera on a cluster, seen from one namespace."""

    cluster: Cluster
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """kubectl in this namespace."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin, check=check)

    def apply(self, *manifests: str) -> None:
        """`kubectl apply`."""
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(manifests))

    def get(self, resource: str, name: str) -> Json:
        """An object; empty when there is none."""
        text = self.kubectl("get", resource, name, "-o", "json", "--ignore-not-found")
        found: Json = json.loads(text) if text.strip() else {}
        return found

    def status(self, run: str) -> Json:
        """A run's status."""
        status: Json = self.get("trainingrun", run).get("status") or {}
        return status

    def pods(self, run: str) -> dict[str, Json]:
        """The run's pods by name."""
        text = self.kubectl("get", "pods", "-l", f"tessera.dev/run={run}", "-o", "json")
        return {pod["metadata"]["name"]: pod for pod in json.loads(text)["items"]}

    def succeed(self, run: str, limit: float) -> Json:
        """The status of a run once it has succeeded."""
        self.wait(f"{run} succeeds", lambda: condition(self.status(run), "Succeeded").get("status") == "True", limit)
        return self.status(run)

    def rank_0(self, run: str) -> str:
        """The pod that holds rank 0 of the open generation, as its own agent says it."""
        for name in self.pods(run):
            words = self.kubectl("logs", name, "--tail=20", check=False)
            lines = [line for line in words.splitlines() if "node " in line and " of " in line]
            if lines and "node 0 of" in lines[-1]:
                return name
        raise AssertionError(f"nobody of run {run} says that it holds rank 0")

    def node_of(self, pod: str) -> int:
        """The number of the cluster's node that a pod runs on."""
        return int(self.get("pod", pod)["spec"]["nodeName"].removeprefix("node"))

    def wait(self, what: str, holds: Callable[[], bool], limit: float) -> float:
        """Seconds that it took. Fails with everything that is known when it does not hold within `limit` seconds."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > limit:
                raise AssertionError(f"{what}: not within {limit:.0f} s\n{self.tell()}")
            time.sleep(0.5)
        return time.monotonic() - began

    def tell(self) -> str:
        """What a person would look at."""
        overview = self.kubectl("get", "trun,dsb,pods,events", "-o", "wide", check=False)
        status = self.kubectl("get", "trun", "-o", "jsonpath={.items[*].status}", check=False)
        logs = self.cluster.kubectl("-n", "tessera-system", "logs", "deploy/tessera-operator", "--tail=40", check=False)
        return f"{overview}\n{status}\n{logs}"


def step_of(status: Json) -> int:
    """Steps done."""
    return int(str(status.get("step") or "0/0").partition("/")[0])


def condition(status: Json, kind: str) -> Json:
    """A condition of a status; empty when there is none."""
    found: Json = next((c for c in status.get("conditions") or [] if c["type"] == kind), {})
    return found
