"""NetworkPolicies enforced on a running cluster, by the firewall of kube-router: the genuine program on every node.

(`kube-network-policies` asks the kernel for nftables' queue, which not every kernel has; kube-router asks for ipset.)
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.cluster import Cluster
from tests.cluster.control import SERVICE_CIDR
from tests.cluster.go_programs import build_programs
from tests.cluster.network import enter, namespace_of
from tests.cluster.processes import run

_FIREWALL_ALONE = ("--run-firewall=true", "--run-router=false", "--run-service-proxy=false", "--enable-cni=false")


@contextmanager
def enforced(cluster: Cluster) -> Iterator[None]:
    """While this lasts; after it every packet passes again."""
    program = build_programs("kube-router").kube_router
    account = cluster.nodes.identities.kubeconfig("kube-router", "kube-router", "system:masters")
    nodes = cluster.nodes.known()
    for node in nodes:
        asked = (f"--kubeconfig={account}", f"--hostname-override=node{node}", "--iptables-sync-period=5s")
        command = (program, *asked, *_FIREWALL_ALONE, "--health-port=0", f"--service-cluster-ip-range={SERVICE_CIDR}")
        cluster.nodes.daemons.start(_name(node), command, namespace_of(node))
    try:
        yield
    finally:
        for node in nodes:
            cluster.nodes.daemons.stop(_name(node))
            run((*enter(namespace_of(node)), program, "--cleanup-config", f"--kubeconfig={account}"), check=False)


def _name(node: int) -> str:
    return f"node{node}-kube-router"
