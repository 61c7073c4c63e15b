"""Others: the same crash under an Indexed Job with torchrun's own rendezvous, under JobSet, and under Tessera.

python benchmarks/others.py [--only job|jobset|tessera]: a JSON line a figure. Starts a real cluster of four nodes on
this machine (root). A toy job (`toy_job.py`) on three nodes, two of which suffice (`--nnodes=2:3`), with Kubernetes'
and torchrun's defaults and retries without end; the node of rank 0 loses power; the figure is the time to the next
step. JobSet's is its own controller, v0.8.0, which makes all pods anew when one fails. Tessera trains its 1-million
model on two nodes, a third stands ready. Who makes no step within LIMIT_SECONDS is put down with that time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster.cluster import unavailable  # noqa: E402
from tests.cluster.control import S3_URL, S3_USER  # noqa: E402
from tests.cluster.go_programs import build_programs, module_source  # noqa: E402
from tests.cluster.network import CONTROL  # noqa: E402
from tests.e2e.installation import ON_WORKERS, Installation, fresh_installation  # noqa: E402

LIMIT_SECONDS = 900.0
SETTLED_STEPS = 60
PORT = 29400
Json = dict[str, Any]
LAST = """
import boto3, sys
from botocore.exceptions import ClientError
try:
    print(boto3.client("s3").get_object(Bucket="models", Key=sys.argv[1] + "/last")["Body"].read().decode())
except ClientError:
    print("{}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="nothing: the shortest takes minutes")
    parser.add_argument("--only", choices=tuple(_ways()))
    options = parser.parse_args()
    reason = "it has no short form" if options.quick else unavailable()
    if reason:
        print(f"these figures are left out: {reason}", file=sys.stderr)
        return
    with fresh_installation() as installed:
        for way in [options.only] if options.only else list(_ways()):
            _ways()[way](installed)


def _ways() -> dict[str, Callable[[Installation], None]]:
    return {"tessera": _tessera, "job": _job, "jobset": _jobset}


def _tessera(installed: Installation) -> None:
    name = "ours"
    installed.train(name, tokens="40M")
    installed.wait("it trains", lambda: len(installed.steps(name)) > SETTLED_STEPS, 300)
    node = installed.node_of(installed.rank_0(name))
    before = installed.steps(name)[-1].generation
    began = time.time()
    installed.cluster.crash(node)

    def later() -> list[float]:
        return [step.time for step in installed.steps(name) if step.generation > before]

    installed.wait("a step of a newer generation", lambda: bool(later()), LIMIT_SECONDS)
    _say("Tessera, a spare stands ready: node of rank 0 loses power, next step", min(later()) - began)
    installed.kubectl("delete", "trainingrun", name, "--wait=true")
    installed.cluster.restart(node)
    installed.wait("all nodes are ready", lambda: _ready(installed) == 4, 120)


def _job(installed: Installation) -> None:
    """A Service for names and an Indexed Job, as PyTorch's and Kubernetes' own documents have it."""
    name = "toy-job"
    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"toy": name}}
    template = _template(installed, name, f"{name}-0.{name}", name)
    job = {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 1000, "template": template}
    _apply(installed, _document("v1", "Service", name, service), _document("batch/v1", "Job", name, job))
    _crash(installed, name, "Indexed Job and torchrun c10d: node of rank 0 loses power, next step")


def _jobset(installed: Installation) -> None:
    name = "toy-set"
    _start_jobset(installed)
    endpoint = f"{name}-nodes-0-0.{name}"
    template = _template(installed, name, endpoint, None)
    job = {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 0, "template": template}
    spec = {
        "failurePolicy": {"maxRestarts": 1000},
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "successPolicy": {"operator": "All"},
        "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
        "replicatedJobs": [{"name": "nodes", "replicas": 1, "template": {"spec": job}}],
    }
    _apply(installed, _document("jobset.x-k8s.io/v1alpha2", "JobSet", name, spec))
    _crash(installed, name, "JobSet and torchrun c10d: node of rank 0 loses power, next step")


def _start_jobset(installed: Installation) -> None:
    """The definitions, and the controller in the control plane's network; without its webhooks, whose defaults are
    written out above."""
    control, programs = installed.cluster.control, build_programs("jobset")
    bases = module_source("sigs.k8s.io/jobset", "v0.8.0") / "config/components/crd/bases"
    installed.cluster.kubectl("apply", "--server-side", "-f", str(bases / "jobset.x-k8s.io_jobsets.yaml"))
    known = ("get", "--raw", "/apis/jobset.x-k8s.io/v1alpha2/jobsets")
    installed.wait("JobSets are known", lambda: "items" in installed.cluster.kubectl(*known, check=False), 60)
    home = control.data / "jobset"
    home.mkdir(parents=True, exist_ok=True)
    names = ("-subj", "/CN=jobset", "-keyout", "tls.key", "-out", "tls.crt")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run(made, cwd=home, check=True, capture_output=True, timeout=60)
    settings = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "webhook": {"port": 19444, "certDir": str(home)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": "127.0.0.1:0"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
    }
    (home / "jobset.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    config = control.identities.folder / "admin.kubeconfig"
    command = ("env", f"KUBECONFIG={config}", programs.jobset, f"--config={home / 'jobset.yaml'}")
    control.daemons.start("jobset", command, CONTROL)


def _template(installed: Installation, name: str, endpoint: str, subdomain: str | None) -> Json:
    """A node of the toy job: torchrun on one process; one pod a host."""
    program = (
        f"exec python -m torch.distributed.run --nnodes=2:3 --nproc-per-node=1 --max-restarts=1000 --rdzv-id={name}"
        f" --rdzv-backend=c10d --rdzv-endpoint={endpoint}:{PORT}"
        " --rdzv-conf=is_host=$([ $JOB_COMPLETION_INDEX = 0 ] && echo 1 || echo 0) /toy/toy_job.py"
    )
    fixed = {**S3_USER, "AWS_ENDPOINT_URL": S3_URL, "AWS_EC2_METADATA_DISABLED": "true", "TOY_NAME": name}
    container = {
        "name": "node",
        "image": installed.cluster.image("trainer"),
        "command": ["sh", "-c", program],
        "env": [{"name": key, "value": value} for key, value in fixed.items()],
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("toy", "tmp", "cache")],
    }
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"toy": name}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    volumes = [
        {"name": "toy", "configMap": {"name": "toy"}},
        *({"name": name, "emptyDir": {}} for name in ("tmp", "cache")),
    ]
    spec: Json = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": volumes,
        "affinity": apart,
        **ON_WORKERS,
    }
    return {"metadata": {"labels": {"toy": name}}, "spec": spec | ({"subdomain": subdomain} if subdomain else {})}


def _document(version: str, kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _apply(installed: Installation, *documents: Json) -> None:
    program = (Path(__file__).parent / "toy_job.py").read_text(encoding="utf-8")
    toy = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "toy"}, "data": {"toy_job.py": program}}
    installed.apply(*(json.dumps(document) for document in (toy, *documents)))


def _crash(installed: Installation, name: str, figure: str) -> None:
    def last() -> Json:
        said: Json = json.loads(installed.cluster.python(LAST, name))
        return said

    def trains() -> bool:
        said = last()
        return int(said.get("step", 0)) > SETTLED_STEPS and said["world"] == 3

    installed.wait("three nodes train", trains, 300)
    node = installed.node_of(_pod_of(installed, name, str(last()["host"])))
    began = time.time()
    installed.cluster.crash(node)
    found = 0.0
    while not found and time.time() - began < LIMIT_SECONDS:
        time.sleep(0.5)
        found = float(said["time"]) if (said := last())["time"] > began + 1 else 0.0
    _say(figure, found - began if found else LIMIT_SECONDS)
    print(installed.kubectl("get", "pods", "-o", "wide"), file=sys.stderr)
    kind = "jobset" if name == "toy-set" else "job"
    installed.kubectl("delete", kind, name, "--wait=false")
    installed.cluster.restart(node)
    installed.wait("its pods are gone", lambda: not _pods(installed, name), 300)
    installed.wait("all nodes are ready", lambda: _ready(installed) == 4, 120)


def _pods(installed: Installation, name: str) -> list[Json]:
    found: list[Json] = json.loads(installed.kubectl("get", "pods", "-l", f"toy={name}", "-o", "json"))["items"]
    return found


def _pod_of(installed: Installation, name: str, host: str) -> str:
    """By its host name, which for an Indexed Job's pods is shorter than the pod's."""
    return next(
        pod for pod in (str(each["metadata"]["name"]) for each in _pods(installed, name)) if pod.startswith(host)
    )


def _ready(installed: Installation) -> int:
    ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    return installed.cluster.kubectl("get", "nodes", "-o", ready, check=False).split().count("True")


def _say(name: str, value: float) -> None:
    said = {
        "name": name,
        "value": round(value, 3),
        "spread": [round(value, 3)],
        "unit": "s",
        "goal": None,
        "holds": None,
    }
    print(json.dumps({**said, "quick": False}), flush=True)


if __name__ == "__main__":
    main()
