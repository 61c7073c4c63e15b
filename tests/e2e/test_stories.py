"""Stories on a real cluster: several kubelets, a registry, an object store, faults as machines have them.

Their times are asserted within five times what benchmarks/ measures.
"""

import json

import pytest

from tests.e2e.installation import Installation, condition, step_of

pytestmark = [pytest.mark.timeout(1500)]  # the first one builds the images, on a new machine in minutes

LOAD_EXPORT = """
import json, sys, tempfile, pathlib, hashlib
import boto3
bucket, prefix = sys.argv[1:]
s3, folder = boto3.client("s3"), pathlib.Path(tempfile.mkdtemp())
read = lambda name: s3.get_object(Bucket=bucket, Key=prefix + name)["Body"].read()
listed = json.loads(read("tessera-export.json"))["files"]
for name, facts in listed.items():
    data = read(name)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["bytes"], facts["sha256"]), name
    (folder / name).write_bytes(data)
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("import json", return_tensors="pt").input_ids
print(json.dumps({"parameters": model.num_parameters(), "tokens": model.generate(ids, max_new_tokens=4).shape[1]}))
"""


def test_two_manifests_become_a_model_that_loads(installed: Installation) -> None:
    """Story (a): helm install, kubectl apply, a dataset and a run of two nodes and a spare, one pod per node."""
    installed.train("story-a")

    waiting = installed.wait("it says what it waits for", lambda: bool(installed.status("story-a")), 60)
    installed.wait("three nodes", lambda: len(installed.pods("story-a")) >= 4, 180)
    status = installed.succeed("story-a", 300)

    pods = installed.pods("story-a").values()
    places = [pod["spec"].get("nodeName") for pod in pods if pod["metadata"]["labels"]["tessera.dev/role"] == "worker"]
    assert status["phase"] == "Succeeded", installed.tell()
    assert status["step"] == "97/97"
    assert status["restarts"] == 0
    assert len(set(places)) == 3
    built = installed.get("datasetbuild", "stdlib")["status"]
    assert built["phase"] == "Succeeded"
    assert built["documents"] > 50
    said = json.loads(installed.cluster.python(LOAD_EXPORT, "models", "runs/story-a/export/"))
    assert said["parameters"] > 100_000
    assert said["tokens"] > 4
    tested = installed.cluster.helm("test", "tessera", "--namespace", "tessera-system")
    assert "Phase:          Succeeded" in tested
    print(f"the first status came after {waiting:.1f} s")


def test_the_node_of_rank_0_loses_power_and_the_run_goes_on_without_hands(installed: Installation) -> None:
    """Story (b): the spare takes its place, the dead pod leaves the API, status tells what happened."""
    installed.train("story-b", tokens="1200k")  # long enough that it trains still when the dead pod has gone
    installed.wait("it trains and has committed", lambda: step_of(installed.status("story-b")) > 45, 300)
    victim = installed.rank_0("story-b")
    node = installed.node_of(victim)

    installed.cluster.crash(node)
    lost = installed.wait("it says so", lambda: bool(installed.status("story-b").get("incidents")), 60)
    installed.wait("it avoids a node", lambda: bool(installed.status("story-b").get("avoided")), 90)
    avoided = installed.status("story-b")["avoided"]
    gone = installed.wait("the dead pod is gone", lambda: victim not in installed.pods("story-b"), 150)

    incident = installed.status("story-b")["incidents"][-1]
    assert incident["nodes"] == [victim]
    assert float(incident["recoverySeconds"]) <= 5 * 10, incident
    assert avoided[0]["node"] == f"node{node}"
    replacement = [pod for name, pod in installed.pods("story-b").items() if name == f"{victim[:-1]}1"]
    assert [pod["status"]["phase"] for pod in replacement] == ["Pending"]
    assert condition(installed.status("story-b"), "Placed")["reason"] == "Unschedulable"
    installed.cluster.restart(node)
    status = installed.succeed("story-b", 400)

    assert status["step"] == "1171/1171"
    assert status["restarts"] == 1
    _, second, *_ = [entry for entry in installed.log("story-b") if entry["kind"] == "open"]
    holders = second["resume"]["holders"]
    assert holders, "it began from memory, of nodes that are left"
    assert victim not in holders
    print(f"status told of it after {lost:.1f} s, the dead pod left the API after {gone:.1f} s, {incident}")
