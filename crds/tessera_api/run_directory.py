"""The run directory: one layout for every way of running (design.md §2.8).

Owns the names below a run's directory. `storage.uri` holds `log/`, `journal/` and `checkpoints/`, and with local
storage that is this same directory; the live files (`status.json` and the like) are written by the coordinator alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run below `root`."""

    root: Path

    @property
    def run_json(self) -> Path:
        """The resolved run: what was asked, what it came to; one per start."""
        return self.root / "run.json"

    @property
    def key(self) -> Path:
        """32 random bytes that authenticate every message of the run; readable by its owner only. Where there are
        `keys`, those count."""
        return self.root / "key"

    @property
    def control_key(self) -> Path:
        """On a cluster, of coordinators alone: the key of whoever may order a stop or another size. Where there is
        none, the run's key is enough."""
        return self.root / "control" / "key"

    @property
    def keys(self) -> Path:
        """On a cluster: a folder for each key that the run has had since its start, by number; `key`, `control`,
        `tls.crt` and `tls.key` in it, the second and the last for coordinators alone."""
        return self.root / "keys"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one `tessera local` that drives the run."""
        return self.root / "lock"

    @property
    def status(self) -> Path:
        """The resource's `.status`."""
        return self.root / "status.json"

    @property
    def events(self) -> Path:
        """A line an event."""
        return self.root / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """A line a step; a step may stand there twice, then the highest generation counts."""
        return self.root / "metrics.jsonl"

    @property
    def nodes(self) -> Path:
        """Which processes make up which node."""
        return self.root / "nodes.json"

    @property
    def incidents(self) -> Path:
        """A JSON file per incident: what was lost, detected when, back when."""
        return self.root / "incidents"

    def evidence(self, incident: int) -> Path:
        """All that was seen of an incident, by its number; with the storage elsewhere it is there."""
        return self.root / evidence_name(incident)

    @property
    def export(self) -> Path:
        """The Hugging Face model, once the run is complete."""
        return self.root / "export"

    @property
    def report(self) -> Path:
        """The run drawn on one time axis, self-contained."""
        return self.root / "report.html"

    @property
    def logs(self) -> Path:
        """`logs/NODE/GENERATION/rank-R.log`, and each program's own log."""
        return self.root / "logs"

    def rank_log(self, node: str, generation: int, rank: int) -> Path:
        """What one trainer printed."""
        return self.logs / node / str(generation) / f"rank-{rank}.log"

    def agent_log(self, node: str) -> Path:
        """What a node's agent printed."""
        return self.logs / node / "agent.log"

    @property
    def coordinator_log(self) -> Path:
        """What the coordinator printed."""
        return self.logs / "coordinator.log"


def evidence_name(incident: int) -> str:
    """The object in the run's storage that holds all that was seen of an incident, by its number."""
    return f"incidents/{incident:04d}/evidence.json"


ORIGIN_NAME = "origin.json"
LOG_PREFIX = "log/"
JOURNAL_PREFIX = "journal/"
