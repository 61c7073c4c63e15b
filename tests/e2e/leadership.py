"""Who leads a run, and where: for the stories of coordinators and for their benchmark."""

from itertools import pairwise

from tests.e2e.installation import Installation, Step

WORKERS = (1, 2, 3)


def leader(installed: Installation, run: str) -> tuple[str, float]:
    """The slot of the coordinator that claimed the lead last, and when."""
    claims = [entry for entry in installed.log(run) if entry["kind"] == "claim"]
    return str(claims[-1]["slot"]), float(claims[-1]["time"])


def generations(installed: Installation, run: str) -> list[int]:
    """How many nodes each generation had."""
    return [len(entry["members"]) for entry in installed.log(run) if entry["kind"] == "open"]


def longest_pause(steps: list[Step], began: float, ended: float) -> float:
    """The most seconds between two steps that overlap a span of time."""
    return max(b.time - a.time for a, b in pairwise(steps) if b.time > began and a.time < ended)


def stands_by(installed: Installation, run: str, slot: str, nodes: int) -> bool:
    """Whether the coordinator of that slot runs, stands by, and hears so many nodes: then it can take the lead."""
    name = installed.coordinators(run).get(slot)
    said = installed.kubectl("logs", name, "--tail=200", check=False).splitlines() if name is not None else []
    heard = [line for line in said if "hears " in line]
    return any("standing by on" in line for line in said) and bool(heard) and f"hears {nodes} nodes" in heard[-1]


def put_on(installed: Installation, run: str, slot: str, node: int, nodes: int) -> None:
    """Have the coordinator of a slot, which stands by, made anew on a node, until it hears the run's nodes."""
    others = [f"node{other}" for other in (0, *WORKERS) if other != node]
    before = installed.coordinators(run)[slot]
    installed.kubectl("cordon", *others)
    try:
        installed.kubectl("delete", "pod", before, "--wait=false")
        installed.wait("another is made", lambda: installed.coordinators(run).get(slot, before) != before, 60)
        installed.wait("it stands by", lambda: stands_by(installed, run, slot, nodes), 60)
    finally:
        installed.kubectl("uncordon", *others)
    assert installed.node_of(installed.coordinators(run)[slot]) == node
