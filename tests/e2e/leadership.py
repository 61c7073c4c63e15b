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


def stands_by(installed: Installation, run: str, slot: str) -> bool:
    """Whether the coordinator of that slot runs and says that it stands by."""
    name = installed.coordinators(run).get(slot)
    return name is not None and "standing by on" in installed.kubectl("logs", name, "--tail=50", check=False)


def put_on(installed: Installation, run: str, slot: str, node: int) -> None:
    """Have the coordinator of a slot, which stands by, made anew on a node."""
    others = [f"node{other}" for other in (0, *WORKERS) if other != node]
    before = installed.coordinators(run)[slot]
    installed.kubectl("cordon", *others)
    try:
        installed.kubectl("delete", "pod", before, "--wait=false")
        installed.wait("another is made", lambda: installed.coordinators(run).get(slot, before) != before, 60)
        installed.wait("it stands by", lambda: stands_by(installed, run, slot), 60)
    finally:
        installed.kubectl("uncordon", *others)
    assert installed.node_of(installed.coordinators(run)[slot]) == node
