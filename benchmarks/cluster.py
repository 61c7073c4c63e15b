"""Cluster: how soon a run begins to train, and how soon it goes on when the node of rank 0 loses power.

python benchmarks/cluster.py [--quick]: a JSON line a figure. Starts a real cluster of four nodes on this machine (root;
`make cluster` sets it up), installs the chart, and removes everything at the end. t0 is the moment at which the node's
cable is pulled, just before all its processes are killed. 20 million parameters, 6 units of 256 tokens, two nodes and a
spare, one pod a node; quick: 1 million parameters and the start alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster.cluster import unavailable  # noqa: E402
from tests.cluster.prometheus import Prometheus  # noqa: E402
from tests.e2e.installation import CHART, DATASET, Installation, a_run, fresh_installation, step_of  # noqa: E402
from tests.e2e.leadership import generations, leader, longest_pause, put_on, stands_by  # noqa: E402

TRIES, SHRINKS, LEADERS = 10, 3, 3
MINUTES, IDLE_RUNS = 3, 100
RUN_FOLDER = "/run/tessera/run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=tuple(_parts()), help="one part")
    options = parser.parse_args()
    if reason := unavailable():
        print(f"no cluster here, its figures are left out: {reason}", file=sys.stderr)
        return
    chosen = [options.only] if options.only else ["starts"] if options.quick else list(_parts())
    with fresh_installation() as installed:
        installed.apply(DATASET)
        installed.wait("the dataset is built", lambda: _phase(installed, "datasetbuild", "stdlib") == "Succeeded", 300)
        for part in chosen:
            _parts()[part](installed, options.quick)


def _parts() -> dict[str, Callable[[Installation, bool], None]]:
    """By name; only the first has a short form."""
    return {
        "starts": _starts,
        "losses": lambda installed, _: _losses(installed),
        "shrinking": lambda installed, _: _shrinking(installed),
        "leaders": lambda installed, _: _leaders(installed),
        "steady": lambda installed, _: _steady(installed),
    }


def _starts(installed: Installation, quick: bool) -> None:
    starts = [_start(installed, f"start-{place}", quick) for place in range(1 if quick else 3)]
    _say("kubectl apply to the first training step, 2 nodes and a spare", starts, "s", (45.0,), quick)


def _start(installed: Installation, name: str, quick: bool) -> float:
    began = time.time()
    installed.apply(_manifest(name, quick))
    installed.wait("it trains", lambda: step_of(installed.status(name)) > 0, 240)
    first = json.loads(_read(installed, name, "metrics.jsonl").splitlines()[0])
    installed.kubectl("delete", "trainingrun", name, "--wait=true")
    installed.wait("its pods are gone", lambda: not installed.pods(name), 90)
    return float(first["time"]) - began


def _losses(installed: Installation) -> None:
    """Ten times: the node of rank 0 loses power, the spare takes its place; then the node returns as the spare."""
    name = "losses"
    installed.apply(_manifest(name, False))
    detected, steps, gone = [], [], []
    for number in range(1, TRIES + 1):
        _settle(installed, name, workers=3)
        t0, victim, node = _crash(installed, name)
        incident = _incident(installed, name, number)
        detected.append(incident["detected"] - t0)
        steps.append(incident["next_step"] - t0 - _median_step(installed, name))
        installed.wait("the dead pod is gone", lambda victim=victim: victim not in installed.pods(name), 150)  # type: ignore[misc]
        gone.append(time.time() - t0 - detected[-1])
        installed.cluster.restart(node)
    _say("node of rank 0 loses power, a spare stands ready: detected", detected, "s", (4.0,), False)
    _say("node of rank 0 loses power, a spare stands ready: next step", steps, "s", (10.0, 20.0), False)
    _say("dead pod gone from the API after its node is judged lost", gone, "s", (30.0,), False)
    installed.kubectl("delete", "trainingrun", name, "--wait=true")


def _shrinking(installed: Installation) -> None:
    """The same without a spare: it shrinks to one node, and grows again when the other is back."""
    name = "shrinking"
    installed.apply(_manifest(name, False, spares=0))
    steps, grown = [], []
    for number in range(1, SHRINKS + 1):
        _settle(installed, name, workers=2)
        t0, _, node = _crash(installed, name)
        incident = _incident(installed, name, number)
        steps.append(incident["next_step"] - t0 - _median_step(installed, name))
        began = time.time()
        installed.cluster.restart(node)
        installed.wait("two nodes train again", lambda: installed.status(name).get("activeNodes") == 2, 240)
        grown.append(time.time() - began)
    _say("node of rank 0 loses power, no spare, shrinking: next step", steps, "s", (10.0,), False)
    _say("its node returns: two nodes train again", grown, "s", (45.0,), False)


def _leaders(installed: Installation) -> None:
    """The leading coordinator's node dies, three times; each time then one that holds the leader and rank 0 both, with
    neither operator nor API server to help. Three nodes and no spare."""
    name, scale = "leaders", ("-n", "tessera-system", "scale", "deploy/tessera-operator")
    installed.apply(a_run(name, tokens="40M", count="3", min="2", max="3", spares="0"))
    installed.wait("it trains", lambda: step_of(installed.status(name)) > 25, 240)
    taken, pauses, steps = [], [], []
    for _ in range(LEADERS):
        if leader(installed, name)[0] != "c0":
            installed.kubectl("delete", "pod", installed.coordinators(name)["c1"])
            installed.wait("the first leads", lambda: leader(installed, name)[0] == "c0", 60)
        node = installed.node_of(installed.rank_0(name))
        installed.wait("one stands by", lambda: stands_by(installed, name, "c1", 3), 120)
        if installed.node_of(installed.coordinators(name)["c1"]) != node:
            put_on(installed, name, "c1", node, 3)
        t0 = time.time()
        installed.cluster.crash(0)
        installed.wait("the other leads", lambda: leader(installed, name)[0] == "c1", 60)
        taken.append(leader(installed, name)[1] - t0)
        installed.wait("steps are shipped", lambda t0=t0: installed.steps(name)[-1].time > t0 + 20, 60)  # type: ignore[misc]
        pauses.append(longest_pause(installed.steps(name), t0, t0 + 20))
        installed.cluster.restart(0)
        installed.wait("the first stands by", lambda: stands_by(installed, name, "c0", 3), 180)
        before = generations(installed, name)
        installed.cluster.kubectl(*scale, "--replicas=0")
        installed.cluster.control.daemons.stop("apiserver")
        t0 = time.time()
        installed.cluster.crash(node)
        installed.wait("it goes on", lambda before=before: generations(installed, name) == [*before, 2], 120)  # type: ignore[misc]
        number = len(before) + 1
        installed.wait(
            "its steps are shipped",
            lambda number=number: installed.steps(name)[-1].generation >= number,  # type: ignore[misc]
            60,
        )
        steps.append(next(step.time for step in installed.steps(name) if step.generation >= number) - t0)
        installed.cluster.control.start_api_server()
        installed.cluster.kubectl(*scale, "--replicas=2")
        installed.cluster.restart(node)
        installed.wait("three nodes train again", lambda: installed.status(name).get("activeNodes") == 3, 240)
    usual = longest_pause(installed.steps(name)[10:60], 0.0, time.time())
    print(f"two undisturbed steps of that run are at most {usual:.2f} s apart", file=sys.stderr)
    _say("the leading coordinator's node dies: the other in charge", taken, "s", (6.0,), False)
    _say(
        "the leading coordinator's node dies: longest time between two steps",
        pauses,
        "s",
        (max(1.0, 3 * usual),),
        False,
    )
    _say("a node with the leading coordinator and rank 0 dies, nobody to help: next step", steps, "s", (15.0,), False)
    installed.kubectl("delete", "trainingrun", name, "--wait=true")


def _steady(installed: Installation) -> None:
    """What the operator costs: writes to the API for a run in which nothing happens, and memory with a hundred runs."""
    prometheus = Prometheus(installed.cluster.control, CHART / "files" / "alerts.yaml")
    prometheus.start()
    installed.apply(_manifest("steady", False))
    installed.wait("it trains", lambda: step_of(installed.status("steady")) > 25, 240)
    prometheus.find()
    time.sleep(60)  # its beginning is no steady state
    written = 'sum(tessera_operator_api_requests_total{verb!="GET",resource!="leases"})'
    counts = []
    for _ in range(MINUTES + 1):
        (found,) = prometheus.ask(written)
        counts.append(float(found[0]["value"][1]))
        time.sleep(60)
    writes = [after - before for before, after in pairwise(counts)]
    _say("writes to the API server in a minute of a steady run", writes, "1/min", (6.0,), False)
    installed.kubectl("delete", "trainingrun", "steady", "--wait=true")
    many = (a_run(f"idle-{place}").replace("spec:\n", "spec:\n  suspend: true\n", 1) for place in range(IDLE_RUNS))
    installed.apply(*many)
    asked = f'sum(tessera_operator_resources{{kind="trainingruns",phase="Suspended"}}) >= {IDLE_RUNS}'
    installed.wait("all are looked after", lambda: bool(prometheus.ask(asked)[0]), 240)
    time.sleep(30)
    (memory,) = prometheus.ask("process_resident_memory_bytes * on (pod) (tessera_operator_leads == 1) / 1048576")
    values = [float(found["value"][1]) for found in memory]
    _say(f"the operator's memory with {IDLE_RUNS} idle runs", values, "MiB", (150.0,), False)
    installed.kubectl("delete", "trainingrun", "--all", "--wait=true")


def _manifest(name: str, quick: bool, spares: int = 1) -> str:
    if quick:
        return a_run(name, tokens="200k")
    large = {"recipe": "llama-20m", "sequenceLength": "256", "globalBatch": "6", "unit": "1", "tokens": "100M"}
    return a_run(name, **large, spares=str(spares))


def _settle(installed: Installation, name: str, workers: int) -> None:
    """All nodes are there, the spare too, and some steps of this generation are done."""
    restarts = installed.status(name).get("restarts", 0)

    def calm() -> bool:
        nodes = json.loads(_read(installed, name, "nodes.json") or "{}")
        return len(nodes) == workers and all(node.get("sessions") for node in nodes.values())

    installed.wait("all nodes are there", calm, 240)
    reached = step_of(installed.status(name))
    installed.wait("it trains", lambda: step_of(installed.status(name)) > reached + 6, 240)
    assert installed.status(name).get("restarts", 0) >= restarts


def _crash(installed: Installation, name: str) -> tuple[float, str, int]:
    victim = installed.rank_0(name)
    node = installed.node_of(victim)
    t0 = time.time()
    installed.cluster.crash(node)
    return t0, victim, node


def _incident(installed: Installation, name: str, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def over() -> bool:
        text = _read(installed, name, f"incidents/{number:04d}.json")
        found.update(json.loads(text) if text.strip() else {})
        return found.get("next_step") is not None

    installed.wait("it trains again", over, 120)
    return found


def _median_step(installed: Installation, name: str) -> float:
    """Seconds of a step of a generation that is undisturbed."""
    lines = [json.loads(line) for line in _read(installed, name, "metrics.jsonl").splitlines()[-60:]]
    spans: list[float] = [b["time"] - a["time"] for a, b in pairwise(lines) if a["generation"] == b["generation"]]
    return statistics.median(spans)


def _read(installed: Installation, name: str, file: str) -> str:
    """A live file of the run, out of its coordinator's folder."""
    return installed.kubectl("exec", f"{name}-c0-0", "--", "cat", f"{RUN_FOLDER}/{file}", check=False)


def _phase(installed: Installation, kind: str, name: str) -> str:
    return str((installed.get(kind, name).get("status") or {}).get("phase"))


def _say(name: str, values: list[float], unit: str, goals: tuple[float, ...], quick: bool) -> None:
    """A goal of two numbers is one for the median and one for the greatest; a single one holds for every try."""
    median, most = statistics.median(values), max(values)
    holds = most <= goals[0] if len(goals) == 1 else median <= goals[0] and most <= goals[1]
    said = {
        "name": name,
        "value": round(median, 3),
        "spread": [round(min(values), 3), round(most, 3)],
        "unit": unit,
        "goal": "<= " + " / ".join(f"{goal:g} {unit}" for goal in goals),
        "holds": holds,
        "quick": quick,
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
