"""The workplace: the folder in which `tessera local` keeps its runs and datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tessera_api.run_directory import RunDirectory


@dataclass(frozen=True)
class Workplace:
    """Paths below an absolute `root`."""

    root: Path

    @property
    def runs(self) -> Path:
        """Run directories, by the run's name."""
        return self.root / "runs"

    @property
    def datasets(self) -> Path:
        """Published datasets, by name, and beside each its result."""
        return self.root / "datasets"

    def run(self, name: str) -> RunDirectory:
        """The directory of a run."""
        return RunDirectory(self.runs / name)

    def dataset_result(self, name: str) -> Path:
        """What the last build of a dataset came to."""
        return self.datasets / f"{name}.json"

    def build(self, name: str) -> Path:
        """A build's own folder: its spec, its log, and what is not yet published."""
        return self.root / "builds" / name
