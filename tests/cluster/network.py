"""The cluster's network: a namespace with a bridge for the control plane, one namespace a node, a cable to each.

Owns the namespaces `tessera-control` and `tessera-nodeN` with everything in them. The host's own network is not
touched: no interface, route, rule or setting of it; whoever wants to reach the cluster enters a namespace.
"""

from collections.abc import Sequence

from tests.cluster.processes import run, succeeds

CONTROL = "tessera-control"
CONTROL_IP = "10.89.0.1"
BRIDGE = "bridge0"
POD_CIDR = "10.244.0.0/16"


def enter(namespace: str) -> tuple[str, ...]:
    """The prefix of a command that is to run inside."""
    return ("nsenter", f"--net=/run/netns/{namespace}")


def namespace_of(node: int) -> str:
    """A node's namespace."""
    return f"tessera-node{node}"


def node_ip(node: int) -> str:
    """A node's address on the bridge."""
    return f"10.89.0.{10 + node}"


def pod_subnet(node: int) -> str:
    """The addresses of a node's pods, without the last byte; controller-manager hands out none of its own."""
    return f"10.244.{node}"


def make_network(nodes: Sequence[int]) -> None:
    """Everything that is not there yet."""
    if not _exists(CONTROL):
        run(("ip", "netns", "add", CONTROL))
        _in(CONTROL, "ip", "link", "set", "lo", "up")
        _in(CONTROL, "ip", "link", "add", BRIDGE, "type", "bridge")
        _in(CONTROL, "ip", "addr", "add", f"{CONTROL_IP}/24", "dev", BRIDGE)
        _in(CONTROL, "ip", "link", "set", BRIDGE, "up")
        _in(CONTROL, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    for node in nodes:
        _make_node(node)
    for node in nodes:
        for other in nodes:
            if other != node:
                route = ("ip", "route", "replace", f"{pod_subnet(other)}.0/24", "via", node_ip(other))
                _in(namespace_of(node), *route)


def _make_node(node: int) -> None:
    name = namespace_of(node)
    if _exists(name):
        return
    run(("ip", "netns", "add", name))
    cable = ("ip", "-n", CONTROL, "link", "add", _cable(node), "type", "veth", "peer", "name", "eth0", "netns", name)
    run(cable)
    _in(CONTROL, "ip", "link", "set", _cable(node), "master", BRIDGE, "up")
    _in(CONTROL, "ip", "route", "replace", f"{pod_subnet(node)}.0/24", "via", node_ip(node))
    _in(name, "ip", "link", "set", "lo", "up")
    _in(name, "ip", "addr", "add", f"{node_ip(node)}/24", "dev", "eth0")
    _in(name, "ip", "link", "set", "eth0", "up")
    _in(name, "ip", "route", "add", "default", "via", CONTROL_IP)
    _in(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")


def connect(node: int, connected: bool) -> None:
    """Plug a node's cable in, or pull it: no packet of the node leaves any more, no closing one either."""
    _in(CONTROL, "ip", "link", "set", _cable(node), "up" if connected else "down")


def remove_network(nodes: Sequence[int]) -> None:
    """No namespace is left; the cables go with them."""
    for name in (*map(namespace_of, nodes), CONTROL):
        if _exists(name):
            run(("ip", "netns", "del", name))


def _cable(node: int) -> str:
    return f"cable{node}"


def _exists(namespace: str) -> bool:
    return succeeds(("ip", "netns", "exec", namespace, "true"))


def _in(namespace: str, *command: str) -> None:
    run((*enter(namespace), *command))
