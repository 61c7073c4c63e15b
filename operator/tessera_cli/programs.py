"""Programs: which commands start the other programs of Tessera. The command knows them by these words alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

Command = tuple[str, ...]


@dataclass(frozen=True)
class Programs:
    """The first words of each command; the arguments below are appended."""

    coordinator: Command = (sys.executable, "-m", "tessera_coordinator")
    agent: Command = (sys.executable, "-m", "tessera_trainer.agent")
    build: Command = (sys.executable, "-m", "tessera_data", "build")

    def coordinator_of(self, run_directory: Path, address: str) -> Command:
        """Lead the run in `run_directory`, listening on HOST:PORT."""
        return (*self.coordinator, "--run-directory", str(run_directory), "--listen", address)

    def agent_of(self, run_directory: Path, node: str, address: str) -> Command:
        """Be the node `node` of the run, with the coordinator at HOST:PORT."""
        return (*self.agent, "--run-directory", str(run_directory), "--node", node, "--coordinator", address)

    def build_of(self, spec: Path, work: Path) -> Command:
        """Build the dataset of a spec (JSON), with a folder for what is not yet published.

        Standard output: JSON lines of progress, the last one {"manifest": URI, "fingerprint": ...}.
        """
        return (*self.build, str(spec), "--work", str(work))
