"""A real Kubernetes of several nodes on one Linux machine, without a container engine.

    python tests/cluster/cluster.py up [--workers 3]    start what does not run yet; prints how to reach it
    python tests/cluster/cluster.py kubectl ARGS...     kubectl as the administrator
    python tests/cluster/cluster.py cut|heal|crash|restart NODE
    python tests/cluster/cluster.py down                end and remove everything but the cache

Every component is the genuine one: etcd, API server, controller-manager, scheduler, CoreDNS, a registry and SeaweedFS
in a network namespace of their own, and per node containerd, kubelet and kube-proxy in another. Node 0 takes control
pods; the others are workers, labelled and tainted as nodes with accelerators are. Needs root.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cluster.control import REGISTRY, Control, s3_environment
from tests.cluster.go_programs import build_programs, cached_programs, missing
from tests.cluster.identities import Identities
from tests.cluster.images import DOCKERFILES, build_images, image_identity, push_image
from tests.cluster.network import CONTROL, connect, enter, make_network, namespace_of, remove_network
from tests.cluster.node_images import NodeImages
from tests.cluster.nodes import Nodes
from tests.cluster.processes import Daemons, run, wait_until

STATE = Path(os.environ.get("TESSERA_CLUSTER_STATE", "/run/tessera-cluster"))
DATA = Path(os.environ.get("TESSERA_CLUSTER_DATA", "/var/lib/tessera-cluster"))
READY_SECONDS = 180.0
_PROGRAMS = ("containerd", "runc", "ip", "iptables", "conntrack", "docker-registry", "buildah", "debootstrap")


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    control: Control
    nodes: Nodes
    images: NodeImages

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True, limit: float = 60.0) -> str:
        """Standard output of kubectl as the administrator. Raises CommandFailed."""
        return run((*self.control.kubectl(), *arguments), limit=limit, stdin=stdin, check=check)

    def helm(self, *arguments: str, limit: float = 180.0) -> str:
        """Standard output of Helm as the administrator."""
        config = self.control.identities.folder / "admin.kubeconfig"
        home = f"HOME={DATA}"
        helm = ("env", home, str(self.control.programs.helm), f"--kubeconfig={config}")
        return run((*enter(CONTROL), *helm, *arguments), limit=limit)

    def python(self, code: str, *arguments: str, limit: float = 120.0) -> str:
        """Standard output of a Python program inside the network, which reaches the object store."""
        command = [*enter(CONTROL), sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=s3_environment(), text=True, capture_output=True, timeout=limit)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cut(self, node: int) -> None:
        """Pull the node's cable; everything on it runs on."""
        connect(node, False)

    def heal(self, node: int) -> None:
        """Plug the node's cable in again."""
        connect(node, True)

    def block(self, node: int, source: str, destination: str, port: int, blocked: bool = True) -> None:
        """Drop what a pod on a node sends to one port of a pod elsewhere, or let it pass again."""
        verb = "--insert" if blocked else "--delete"
        way = ("--protocol", "tcp", "--source", source, "--destination", destination, "--dport", str(port))
        run((*enter(namespace_of(node)), "iptables", "--wait", verb, "FORWARD", *way, "--jump", "DROP"))

    def crash(self, node: int) -> None:
        """The node loses power."""
        self.nodes.crash(node)

    def restart(self, node: int) -> None:
        """The node boots again, with the disk that it had."""
        connect(node, True)
        self.nodes.start(node, worker=node > 0)

    def image(self, name: str) -> str:
        """The reference under which pods name an image of this repository."""
        return reference(name)


def unavailable() -> str:
    """Why there can be no cluster on this machine; empty when there can."""
    if os.geteuid() != 0:
        return "a cluster needs root: namespaces, mounts, control groups"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [
        *missing(cached_programs().all()),
        *(name for name in _PROGRAMS if shutil.which(name, path=path) is None),
    ]
    return f"{', '.join(lacking)} not there yet: run scripts/setup_cluster.sh" if lacking else ""


def reference(name: str) -> str:
    """An image's place in the registry; its tag follows its content."""
    return f"{REGISTRY}/tessera/{name}:{image_identity(name)[:16]}"


def cluster() -> Cluster:
    """The one cluster of this machine, whether it runs or not."""
    programs, daemons, identities = build_programs(), Daemons(STATE), Identities(DATA)
    return Cluster(
        Control(programs, daemons, identities, DATA),
        Nodes(programs, daemons, identities, DATA, STATE, REGISTRY),
        NodeImages(daemons, STATE, REGISTRY),
    )


def up(workers: int = 3) -> Cluster:
    """Start everything that does not run yet; quick when all does."""
    found, nodes = cluster(), range(workers + 1)
    for folder in (STATE, DATA):
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    build_images()
    make_network(nodes)
    found.control.start_registry()
    references = [reference(name) for name in DOCKERFILES]
    if found.images.missing(references):
        for name in DOCKERFILES:
            push_image(name, reference(name), enter(CONTROL))
        found.images.pull(references)
    found.control.start()
    found.control.start_object_store()
    for node in nodes:
        found.nodes.home(node).mkdir(parents=True, exist_ok=True)
        found.images.place(found.nodes.home(node))
        connect(node, True)
        found.nodes.start(node, worker=node > 0)
    ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    wait_until(
        f"{len(nodes)} nodes Ready",
        lambda: found.kubectl("get", "nodes", "-o", ready, check=False).split().count("True") >= len(nodes),
        READY_SECONDS,
    )
    return found


def down() -> None:
    """End and remove everything; programs, images and the registry's blobs stay in the cache."""
    found = cluster()
    nodes = found.nodes.known()
    for node in nodes:
        found.nodes.crash(node)
    for name in found.control.daemons.names():
        found.control.daemons.stop(name, signal.SIGKILL, 5.0)
    for node in nodes:
        found.nodes.remove(node)
    remove_network(nodes)
    for folder in (STATE, DATA):
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up").add_argument("--workers", type=int, default=3)
    commands.add_parser("down")
    commands.add_parser("kubectl").add_argument("arguments", nargs=argparse.REMAINDER)
    for verb in ("cut", "heal", "crash", "restart"):
        commands.add_parser(verb).add_argument("node", type=int)
    options = parser.parse_args()
    match options.command:
        case "up":
            up(options.workers)
            print(f"up; python {sys.argv[0]} kubectl get nodes")
        case "down":
            down()
        case "kubectl":
            sys.exit(subprocess.run((*cluster().control.kubectl(), *options.arguments)).returncode)
        case verb:
            getattr(cluster(), verb)(options.node)


if __name__ == "__main__":
    main()
