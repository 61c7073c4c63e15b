"""Images on the nodes, on a disk diet: pulled and unpacked once, then shared by all nodes as hard links.

Owns the folder `template` in the cache: containerd's root as a node has it after its pulls. A layer's files are never
written again (what a container changes is copied up into a folder of its own), so that nodes may share them; only
containerd's two databases are each node's own. The packed layers are dropped once they are unpacked.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.go_programs import cache
from tests.cluster.network import CONTROL, enter
from tests.cluster.nodes import containerd_settings
from tests.cluster.processes import Daemons, run, succeeds, wait_until

PULL_SECONDS = 900.0
_DAEMON = "template-containerd"


@dataclass(frozen=True)
class NodeImages:
    """See the module. Images come from `registry` over plain HTTP."""

    daemons: Daemons
    state: Path
    registry: str

    @property
    def template(self) -> Path:
        """A node's disk as it is after the pulls."""
        return cache() / "template"

    def missing(self, references: Sequence[str]) -> list[str]:
        """Which of these images the template lacks."""
        known = self.template / "images.json"
        have = json.loads(known.read_text(encoding="utf-8")) if known.exists() else []
        return [reference for reference in references if reference not in have]

    def pull(self, references: Sequence[str]) -> None:
        """Make the template hold these images and no others."""
        self.template.mkdir(parents=True, exist_ok=True)
        (self.template / "images.json").unlink(missing_ok=True)
        socket = self.state / "template.sock"
        settings = self.template / "containerd.toml"
        text = containerd_settings(self.template, self.state / "template", socket, self.registry)
        settings.write_text(text, encoding="utf-8")
        self.daemons.start(_DAEMON, ("containerd", "-c", settings), CONTROL)
        ctr = (*enter(CONTROL), "ctr", "-a", str(socket), "-n", "k8s.io")
        try:
            wait_until("the template's containerd", lambda: succeeds((*ctr, "version")), 60.0)
            for reference in references:
                run((*ctr, "images", "pull", "--plain-http", reference), limit=PULL_SECONDS)
            old = [name for name in run((*ctr, "images", "ls", "-q")).split() if self._outdated(name, references)]
            if old:
                run((*ctr, "images", "rm", "--sync", *old), limit=PULL_SECONDS)
            layers = [line.split()[0] for line in run((*ctr, "content", "ls")).splitlines() if _is_layer(line)]
            if layers:
                run((*ctr, "content", "rm", *layers))
        finally:
            self.daemons.stop(_DAEMON)
        (self.template / "images.json").write_text(json.dumps(list(references)), encoding="utf-8")

    def _outdated(self, name: str, references: Sequence[str]) -> bool:
        return name.startswith(self.registry) and name not in references

    def place(self, home: Path) -> None:
        """Give a node that has no containerd root yet the template's."""
        root = home / "containerd"
        if root.exists():
            return
        partial = home / "containerd.partial"
        shutil.rmtree(partial, ignore_errors=True)
        run(("cp", "-al", self.template / "containerd", partial), limit=PULL_SECONDS)
        for database in partial.rglob("*.db"):
            own = database.with_suffix(".own")
            shutil.copy(database, own)
            own.rename(database)
        partial.rename(root)


def _is_layer(line: str) -> bool:
    """Whether a line of `ctr content ls` is a packed layer: containerd notes of it what it unpacks to."""
    return "containerd.io/uncompressed=" in line
