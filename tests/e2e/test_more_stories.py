"""More stories on the real cluster; those that `make test` leaves out are marked `long` and run in `make e2e`."""

import json

import pytest

from tests.e2e.installation import DATASET, Installation, a_run, condition, step_of

pytestmark = [pytest.mark.timeout(900)]

LAST_LOSS = """
import pathlib, sys
from tessera_coordinator.journal import read
from tessera_coordinator.recollection import recollect
from tessera_store import open_store
print(recollect(read(open_store(sys.argv[1]), pathlib.Path("nowhere"))).newest.loss)
"""
READ = """
import boto3, sys
print(boto3.client("s3").get_object(Bucket=sys.argv[1], Key=sys.argv[2])["Body"].read().decode())
"""


def test_a_run_recovers_while_the_operator_is_away_and_the_api_server_stands_still(installed: Installation) -> None:
    """Story (d): the status catches up once they are back."""
    installed.train("story-d", tokens="3M")
    installed.wait("it trains", lambda: step_of(installed.status("story-d")) > 25, 300)
    victim = installed.rank_0("story-d")
    node = installed.node_of(victim)
    before = installed.status("story-d")
    scale = ("-n", "tessera-system", "scale", "deploy/tessera-operator")
    installed.cluster.kubectl(*scale, "--replicas=0")
    installed.cluster.control.daemons.stop("apiserver")

    installed.cluster.crash(node)
    alone = installed.wait("a newer generation commits", lambda: commits_of_the_newest(installed, "story-d") >= 2, 100)
    installed.cluster.control.start_api_server()
    installed.cluster.kubectl(*scale, "--replicas=2")

    installed.wait("status catches up", lambda: bool(installed.status("story-d").get("incidents")), 120)
    after = installed.status("story-d")
    assert after["incidents"][0]["nodes"] == [victim]
    assert after["restarts"] == before["restarts"] + 1
    installed.wait("the dead pod is gone", lambda: victim not in installed.pods("story-d"), 150)
    installed.cluster.restart(node)
    status = installed.succeed("story-d", 400)
    assert status["step"] == "2929/2929"
    print(f"two commits of the next generation, with nobody to ask, after {alone:.1f} s")


def commits_of_the_newest(installed: Installation, run: str) -> int:
    """Commits of the open generation, if it is not the first."""
    entries = installed.log(run)
    opened = [place for place, entry in enumerate(entries) if entry["kind"] == "open"]
    if len(opened) < 2:
        return 0
    return sum(entry["kind"] == "commit" for entry in entries[opened[-1] :])


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"accelerator": "h100"}, "UnknownAccelerator", "profiles of this installation: cpu"),
        ({"dataset": "nowhere"}, "DatasetMissing", "nowhere is no DatasetBuild of this namespace: create it"),
        ({"dataset": "empty"}, "DatasetFailed", "empty could not be built"),
    ],
)
def test_a_mistake_is_one_clear_condition_and_nothing_is_tried_again(
    installed: Installation, change: dict[str, str], reason: str, words: str
) -> None:
    """Story (g)."""
    name = f"mistake-{reason.lower()}"
    text = a_run(name) if "dataset" in change else a_run(name, **change)
    empty = DATASET.replace("name: stdlib\nspec", "name: empty\nspec").replace("json/*.py", "nothing/*")
    for left in ("email/*.py", "asyncio/*.py", "http/*.py"):
        empty = empty.replace(left, f"nothing-{left[0]}/*")
    installed.apply(DATASET, empty, text.replace("dataset: stdlib", f"dataset: {change.get('dataset', 'stdlib')}"))

    def told() -> bool:
        return condition(installed.status(name), "Prepared").get("reason") == reason

    installed.wait(f"it says {reason}", told, 120)
    status = installed.status(name)
    assert words in condition(status, "Prepared")["message"]
    assert status["phase"] == "Pending"
    assert installed.pods(name) == {}
    installed.kubectl("delete", "trainingrun", name)


@pytest.mark.long
def test_a_node_that_was_cut_off_finds_itself_replaced_and_is_not_counted_twice(installed: Installation) -> None:
    """Stories (c) and (l): its generation cannot commit, and it gets no new pod while it is cut off."""
    installed.train("story-c", tokens="2M")
    installed.wait("it trains", lambda: step_of(installed.status("story-c")) > 25, 300)
    victim = installed.rank_0("story-c")
    node = installed.node_of(victim)

    installed.cluster.cut(node)
    installed.wait("it is replaced", lambda: bool(installed.status("story-c").get("avoided")), 90)
    installed.train("story-l", tokens="200k")
    installed.wait("the dead pod is gone", lambda: victim not in installed.pods("story-c"), 150)
    installed.wait("the other run has pods", lambda: len(installed.pods("story-l")) >= 4, 60)
    placed = [pod["spec"].get("nodeName") for run in ("story-c", "story-l") for pod in installed.pods(run).values()]
    assert f"node{node}" not in placed
    installed.cluster.heal(node)
    status = installed.succeed("story-c", 500)

    opens = [entry for entry in installed.log("story-c") if entry["kind"] == "open"]
    assert status["restarts"] == len(opens) - 1 == 1
    assert len(status["incidents"]) == 1
    installed.succeed("story-l", 300)


@pytest.mark.long
def test_a_run_without_enough_nodes_waits_says_why_blames_nobody_and_begins_when_one_appears(
    installed: Installation,
) -> None:
    """Story (f)."""
    for node in (2, 3):
        installed.kubectl("cordon", f"node{node}")
    try:
        installed.train("story-f", min="2", spares="0")

        def waits() -> bool:
            return condition(installed.status("story-f"), "Placed").get("reason") == "Unschedulable"

        installed.wait("it says that it waits for a node", waits, 120)
        installed.wait("the other pod runs", lambda: running(installed, "story-f") == 3, 60)  # with the coordinators'

        def blames_nobody() -> bool:
            status = installed.status("story-f")
            return (status.get("attempts"), status.get("restarts", 0), running(installed, "story-f")) == (None, 0, 3)

        installed.stays("nobody is blamed, nothing restarted", blames_nobody, 20)  # longer than the run's patience
        assert "1 of 4 pods wait for a node" in condition(installed.status("story-f"), "Placed")["message"]
    finally:
        for node in (2, 3):
            installed.kubectl("uncordon", f"node{node}")
    assert installed.succeed("story-f", 300)["restarts"] == 0


def running(installed: Installation, run: str) -> int:
    return sum(pod["status"].get("phase") == "Running" for pod in installed.pods(run).values())


@pytest.mark.long
def test_a_run_is_deleted_in_every_phase_and_nothing_of_it_stays(installed: Installation) -> None:
    """Story (h): also when one of its nodes is dark."""
    installed.apply(a_run("pending").replace("dataset: stdlib", "dataset: nowhere"), DATASET)
    installed.wait("it is pending", lambda: bool(installed.status("pending")), 60)
    installed.kubectl("delete", "trainingrun", "pending", "--timeout=30s")
    installed.train("starting")
    installed.wait("it has pods", lambda: bool(installed.pods("starting")), 120)
    installed.kubectl("delete", "trainingrun", "starting", "--timeout=30s")
    # A first process that has not begun to listen is deaf to the signal: Kubernetes kills it after its 30 s of grace.
    installed.wait("nothing of it is left", lambda: not installed.pods("starting"), 60)
    installed.train("running", tokens="2M")
    installed.wait("it trains, with a spare", lambda: step_of(installed.status("running")) > 5, 300)
    installed.kubectl("delete", "trainingrun", "running", "--timeout=30s")
    installed.wait("all end at the signal, trainers and spare", lambda: not installed.pods("running"), 20)
    installed.train("dark", tokens="2M")
    installed.wait("it trains", lambda: step_of(installed.status("dark")) > 5, 300)
    node = installed.node_of(installed.rank_0("dark"))
    installed.cluster.crash(node)
    installed.kubectl("delete", "trainingrun", "dark", "--timeout=30s")

    for name in ("pending", "starting", "dark"):
        installed.wait(f"nothing of {name} is left", lambda name=name: not installed.pods(name), 120)  # type: ignore[misc]
    installed.cluster.restart(node)


@pytest.mark.long
def test_a_run_that_was_suspended_and_went_on_with_other_nodes_is_bit_for_bit_the_same(installed: Installation) -> None:
    """Story (e)."""
    installed.train("story-e", tokens="400k")
    installed.train("undisturbed", tokens="400k")
    installed.wait("it trains", lambda: step_of(installed.status("story-e")) > 45, 300)
    installed.kubectl("patch", "trun", "story-e", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    installed.wait("it sleeps", lambda: installed.status("story-e").get("phase") == "Suspended", 120)
    assert installed.pods("story-e") == {}
    reached = step_of(installed.status("story-e"))
    fewer = {"suspend": False, "nodes": {"count": 1, "spares": 0}}
    installed.kubectl("patch", "trun", "story-e", "--type=merge", "-p", json.dumps({"spec": fewer}))

    status = installed.succeed("story-e", 400)

    assert (status["start"], status["step"], status.get("incidents")) == (2, "390/390", None)
    assert 45 < reached < 390
    opens = [entry for entry in installed.log("story-e") if entry["kind"] == "open"]
    assert [len(entry["members"]) for entry in opens] == [2, 1]
    installed.succeed("undisturbed", 400)
    assert exported(installed, "story-e") == exported(installed, "undisturbed")


def exported(installed: Installation, run: str) -> str:
    """The digest of the exported weights."""
    marker = json.loads(installed.cluster.python(READ, "models", f"runs/{run}/export/tessera-export.json"))
    return str(marker["files"]["model.safetensors"]["sha256"])


@pytest.mark.long
def test_an_upgrade_of_the_chart_restarts_no_pod_of_a_run_in_flight(installed: Installation) -> None:
    """Story (i): other settings and a new operator change nothing in what is under way."""
    installed.train("story-i", tokens="600k")
    installed.wait("it trains", lambda: step_of(installed.status("story-i")) > 25, 300)
    before = {name: pod["metadata"]["uid"] for name, pod in installed.pods("story-i").items()}
    chart = ("upgrade", "tessera", "charts/tessera", "--namespace", "tessera-system", "--reuse-values", "--wait")
    installed.cluster.helm(*chart, "--set", "profiles.cpu.sharedMemory=128Mi", "--set", "operator.replicas=1")

    status = installed.succeed("story-i", 300)

    assert {name: pod["metadata"]["uid"] for name, pod in installed.pods("story-i").items()} == before
    assert status["restarts"] == 0


@pytest.mark.long
def test_a_run_gets_another_key_while_it_trains_and_notices_nothing(installed: Installation) -> None:
    """Each pod's kubelet brings it, in its own time; every node then speaks to its coordinator under the new key."""
    run = "rotated"
    installed.train(run, tokens="8M")
    installed.wait("it trains", lambda: step_of(installed.status(run)) > 25, 300)
    before = {name: pod["metadata"]["uid"] for name, pod in installed.pods(run).items()}
    nodes = [name for name in before if name.startswith(f"{run}-n")]
    installed.kubectl("annotate", "trun", run, "tessera.dev/rotate-key=somebody-left")
    installed.wait("it is made", lambda: installed.status(run)["key"]["number"] == 2, 60)

    def under_it(pod: str) -> bool:
        return "under key 2" in installed.kubectl("logs", pod)

    installed.wait("all nodes speak under it", lambda: all(map(under_it, nodes)), 400)

    status, steps = installed.status(run), [step.number for step in installed.steps(run)]
    assert {name: pod["metadata"]["uid"] for name, pod in installed.pods(run).items()} == before
    assert (status["phase"], status["restarts"], status.get("incidents")) == ("Running", 0, None)
    assert steps == list(range(1, len(steps) + 1)), "no step twice"
    installed.kubectl("delete", "trun", run)


@pytest.mark.long
def test_a_run_that_was_scaled_while_it_ran_is_bit_for_bit_the_same_and_loses_no_step(installed: Installation) -> None:
    """It grows by its spare at once, then shrinks to one node; nobody is blamed and nothing is computed twice."""
    installed.train("scaled", tokens="3M", max="3")
    installed.wait("it trains", lambda: step_of(installed.status("scaled")) > 25, 300)
    installed.kubectl("scale", "trun", "scaled", "--replicas=3")
    installed.wait("three nodes train", lambda: installed.status("scaled").get("activeNodes") == 3, 90)
    installed.kubectl("scale", "trun", "scaled", "--replicas=1")
    installed.wait("one node trains", lambda: installed.status("scaled").get("activeNodes") == 1, 90)
    installed.wait("the others are given back", lambda: len(installed.pods("scaled")) == 4, 60)  # and a spare

    status = installed.succeed("scaled", 600)

    assert status.get("incidents") is None
    opens = [entry for entry in installed.log("scaled") if entry["kind"] == "open"]
    assert [len(entry["members"]) for entry in opens] == [2, 3, 1]
    steps = [step.number for step in installed.steps("scaled")]
    assert steps == list(range(1, 2930))
    installed.train("unscaled", tokens="3M", max="3")
    installed.succeed("unscaled", 600)
    assert exported(installed, "scaled") == exported(installed, "unscaled")


@pytest.mark.long
def test_a_run_that_ends_while_the_operator_is_away_is_told_of_once_it_is_back(installed: Installation) -> None:
    """With everything that its coordinator knew last."""
    scale = ("-n", "tessera-system", "scale", "deploy/tessera-operator")
    installed.train("unseen", tokens="600k")
    installed.wait("it trains", lambda: step_of(installed.status("unseen")) > 25, 300)
    installed.cluster.kubectl(*scale, "--replicas=0")
    installed.wait("it has ended", lambda: installed.log("unseen")[-1]["kind"] == "end", 300)
    installed.wait("all its pods have", lambda: running(installed, "unseen") == 0, 60)
    installed.cluster.kubectl(*scale, "--replicas=2")

    status = installed.succeed("unseen", 120)

    assert (status["step"], status["restarts"]) == ("585/585", 0)
    last = json.loads(installed.cluster.python(LAST_LOSS, "s3://models/runs/unseen"))
    assert status["loss"] == f"{last:.4f}"


def test_a_run_whose_trainers_need_more_memory_than_they_may_have_ends_with_the_remedy(installed: Installation) -> None:
    """Story (g): three tries, then one clear condition; nothing is tried for ever."""
    chart = ("upgrade", "tessera", "charts/tessera", "--namespace", "tessera-system", "--reuse-values", "--wait")
    small = "profiles.small.{}"
    limits = [
        *("--set", small.format("device=cpu"), "--set", small.format("sharedMemory=256Mi")),
        *("--set", small.format("resources.limits.memory=900Mi"), "--set", small.format("resources.requests.cpu=100m")),
        *("--set", small.format("nodeSelector.tessera\\.dev/accelerator=cpu")),
        *("--set-json", small.format('tolerations=[{"key":"tessera.dev/accelerator","operator":"Exists"}]')),
    ]
    installed.cluster.helm(*chart, *limits)
    large = {"recipe": "llama-20m", "sequenceLength": "1024", "globalBatch": "16", "unit": "8", "accelerator": "small"}
    installed.train("too-large", tokens="20M", **large)

    def over() -> bool:
        return condition(installed.status("too-large"), "Succeeded").get("status") == "False"

    installed.wait("it ends", over, 400)

    said = condition(installed.status("too-large"), "Succeeded")
    assert said["reason"] in ("Failed", "OutOfMemory")
    assert "out of memory" in said["message"] or "memory limit" in said["message"]
    assert "lower training.unit or data.sequenceLength" in said["message"]
    installed.wait("nothing of it runs", lambda: running(installed, "too-large") == 0, 90)
    installed.kubectl("delete", "trainingrun", "too-large", "--timeout=60s")


@pytest.mark.long
def test_a_namespace_with_a_run_in_it_can_be_deleted(installed: Installation) -> None:
    """Story (h): also when a node of the run is dark."""
    secret = json.loads(installed.kubectl("get", "secret", "models-s3", "-o", "json"))
    secret["metadata"] = {"name": "models-s3"}
    installed.cluster.kubectl("create", "namespace", "leaving")
    elsewhere = Installation(installed.cluster, "leaving")
    elsewhere.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
    elsewhere.train("leaving", tokens="4M")
    elsewhere.wait("it trains", lambda: step_of(elsewhere.status("leaving")) > 5, 300)
    node = elsewhere.node_of(elsewhere.rank_0("leaving"))

    elsewhere.cluster.crash(node)
    elsewhere.cluster.kubectl("delete", "namespace", "leaving", "--wait=false")

    def gone() -> bool:
        return not elsewhere.cluster.kubectl("get", "namespace", "leaving", "--ignore-not-found").strip()

    elsewhere.wait("the namespace is gone", gone, 180)
    elsewhere.cluster.restart(node)


LOSSES = """
import json, pathlib, sys
from tessera_api.journal import StepLine
from tessera_coordinator.journal import read
from tessera_store import open_store
records = [r for r in read(open_store(sys.argv[1]), pathlib.Path("nowhere")) if isinstance(r, StepLine)]
print(json.dumps([r.loss for r in sorted(records, key=lambda r: r.step)]))
"""


def test_a_run_waits_for_the_run_that_it_starts_from_and_begins_with_its_weights(installed: Installation) -> None:
    """One `kubectl apply` of both."""
    chained = a_run("chain-next", tokens="40k").replace("recipe: llama-1m", "from: {run: chain-base}")
    installed.apply(chained, DATASET, a_run("chain-base"))

    def waits() -> bool:
        return condition(installed.status("chain-next"), "Prepared").get("reason") == "OriginNotReady"

    installed.wait("it waits for the other run", waits, 180)
    assert installed.pods("chain-next") == {}
    installed.succeed("chain-base", 300)
    installed.succeed("chain-next", 180)

    base, following = (
        json.loads(installed.cluster.python(LOSSES, f"s3://models/runs/{name}"))
        for name in ("chain-base", "chain-next")
    )
    assert base[0] - base[-1] > 1
    assert following[0] < (base[0] + base[-1]) / 2, "it began with fresh weights"


def test_three_pods_share_a_build_and_one_that_is_lost_is_made_good(installed: Installation) -> None:
    """The same dataset as one pod builds: its name is part of the fingerprint, so that tokens are compared."""
    alone = DATASET.replace("name: stdlib\nspec", "name: alone\nspec")
    shared = DATASET.replace("name: stdlib\nspec:", "name: shared\nspec:\n  workers: 3")
    installed.apply(alone, shared)
    label = ("get", "pods", "-l", "tessera.dev/build=shared", "-o", "jsonpath={.items[*].metadata.name}")
    installed.wait("three pods", lambda: len(installed.kubectl(*label).split()) == 3, 60)

    installed.kubectl("delete", "pod", "--wait=false", installed.kubectl(*label).split()[0])
    for name in ("alone", "shared"):
        installed.wait(f"{name} is built", lambda name=name: phase(installed, name) == "Succeeded", 240)  # type: ignore[misc]

    first, second = (installed.get("datasetbuild", name)["status"] for name in ("alone", "shared"))
    assert (second["tokens"], second["documents"]) == (first["tokens"], first["documents"])
    assert second["chunks"] == "1/1"
    job = installed.get("job", "shared-build")
    assert job["spec"]["completionMode"] == "Indexed"


def phase(installed: Installation, build: str) -> str:
    return str(installed.get("datasetbuild", build).get("status", {}).get("phase"))
