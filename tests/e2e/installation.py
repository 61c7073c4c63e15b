"""What the stories say and ask: Tessera installed, manifests applied, status read, conditions waited for."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.cluster import Cluster, down, up
from tests.cluster.control import S3_URL, S3_USER

CHART = Path(__file__).parents[2] / "charts" / "tessera"
NAMESPACE = "team"
BUCKET = "models"
ON_WORKERS = {
    "nodeSelector": {"tessera.dev/accelerator": "cpu"},
    "tolerations": [{"key": "tessera.dev/accelerator", "operator": "Exists"}],
}

MAKE_BUCKET = """
import boto3, sys
s3, name = boto3.client("s3"), sys.argv[1]
if name not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:  # of a cluster that was kept
    s3.create_bucket(Bucket=name)
"""
LOG = """
import json, sys
from tessera_store import open_store
store = open_store(sys.argv[1])
print("[" + ",".join(store.get(info.name).decode() for info in store.list("log/")) + "]")
"""
STEPS = """
import json, pathlib, sys
from tessera_api.journal import StepLine
from tessera_coordinator.journal import read
from tessera_store import open_store
records = read(open_store(sys.argv[1]), pathlib.Path("nowhere"))
print(json.dumps([[r.time, r.step, r.generation] for r in records if isinstance(r, StepLine)]))
"""

DATASET, RUN = (Path(__file__).parents[2] / "examples" / "cluster.yaml").read_text(encoding="utf-8").split("---\n")
"""What the README has its reader apply."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A completed step, as the run's journal tells it."""

    time: float
    number: int
    generation: int


@dataclass(frozen=True)
class Installation:
    """Tessera on a cluster, seen from one namespace."""

    cluster: Cluster
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """kubectl in this namespace."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin, check=check)

    def train(self, name: str, **changes: str) -> None:
        """Apply the example's run under another name, with other values: `tokens="600k"`."""
        self.apply(DATASET, a_run(name, **changes))

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

    def log(self, run: str) -> list[Json]:
        """Every entry of a run's log, as its storage has it."""
        found: list[Json] = json.loads(self.cluster.python(LOG, f"s3://{BUCKET}/runs/{run}"))
        return found

    def steps(self, run: str) -> list[Step]:
        """Every step that has reached the run's storage, whoever coordinated it."""
        return [Step(*line) for line in json.loads(self.cluster.python(STEPS, f"s3://{BUCKET}/runs/{run}"))]

    def coordinators(self, run: str) -> dict[str, str]:
        """The newest living pod in each coordinator's slot."""
        found: dict[str, str] = {}
        for name, pod in sorted(self.pods(run).items()):
            labels = pod["metadata"]["labels"]
            if labels["tessera.dev/role"] == "coordinator" and "deletionTimestamp" not in pod["metadata"]:
                found[labels["tessera.dev/slot"]] = name
        return found

    def rank_0(self, run: str) -> str:
        """The pod that holds rank 0 of the open generation, as its own agent says it."""
        for name in self.pods(run):
            words = self.kubectl("logs", name, check=False)
            said = (line for line in words.splitlines() if not line.startswith("["))  # a rank's, such as its last words
            lines = [line for line in said if "node " in line and " of " in line]
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

    def now(self) -> float:
        """Unix seconds: one clock for all nodes, since they are on one machine."""
        return time.time()

    def stays(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """It holds for so many seconds, whenever one looks."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            assert holds(), f"{what}: not any more\n{self.tell()}"
            time.sleep(0.5)

    def tell(self) -> str:
        """What a person would look at."""
        overview = self.kubectl("get", "trun,dsb,pods,events", "-o", "wide", check=False)
        status = self.kubectl("get", "trun", "-o", "jsonpath={.items[*].status}", check=False)
        logs = self.cluster.kubectl("-n", "tessera-system", "logs", "deploy/tessera-operator", "--tail=40", check=False)
        return f"{overview}\n{status}\n{logs}"


def a_run(name: str, **changes: str) -> str:
    """The example's run under another name; each change is a field of the manifest and its text."""
    text = RUN.replace("cluster-gpt", name)
    for field, value in changes.items():
        text, count = re.subn(rf"(\n +{field}:) .*", rf"\1 {value}", text)
        assert count == 1, field
    return text


def step_of(status: Json) -> int:
    """Steps done."""
    return int(str(status.get("step") or "0/0").partition("/")[0])


def condition(status: Json, kind: str) -> Json:
    """A condition of a status; empty when there is none."""
    found: Json = next((c for c in status.get("conditions") or [] if c["type"] == kind), {})
    return found


def install(cluster: Cluster, folder: Path) -> Installation:
    """`helm install` with the images of this repository; a namespace with the credentials of an object store."""
    small = {"requests": {"cpu": "100m", "memory": "512Mi"}}
    more = {"sharedMemory": "256Mi", "pricePerHour": 0.5}
    values = {
        "coordinator": {"tolerations": ON_WORKERS["tolerations"]},  # the second one has no other host
        "image": {"operator": cluster.image("operator"), "trainer": cluster.image("trainer")},
        "profiles": {"cpu": {"device": "cpu", "threads": 1, "resources": small, **more, **ON_WORKERS}},
        "build": {"resources": small},
    }
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    where = ("--namespace", "tessera-system", "--create-namespace", "--wait", "--timeout", "180s")
    cluster.helm("upgrade", "--install", "tessera", str(CHART), *where, "--values", str(file))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "models-s3", "namespace": NAMESPACE},
        "stringData": {**S3_USER, "AWS_ENDPOINT_URL": S3_URL},
    }
    cluster.kubectl("create", "namespace", NAMESPACE, check=False)
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
    cluster.python(MAKE_BUCKET, BUCKET)
    return Installation(cluster, NAMESPACE)


@contextmanager
def fresh_installation() -> Iterator[Installation]:
    """A cluster of its own with Tessera on it, for a benchmark; nothing is left of it."""
    down()
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield install(up(), Path(folder))
    finally:
        down()
