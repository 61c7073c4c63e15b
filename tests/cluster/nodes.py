"""A node: containerd, kubelet and kube-proxy in a network namespace and a control group of its own.

Owns `data/nodeN` and what runs in the node's control group. A crash ends everything of a node at once; its data lies
where it lay, as on the disk of a machine that lost power.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.go_programs import Programs
from tests.cluster.identities import Identities
from tests.cluster.network import CONTROL_IP, POD_CIDR, connect, namespace_of, node_ip, pod_subnet
from tests.cluster.pause_image import PAUSE, pause_archive
from tests.cluster.processes import Daemons, run, succeeds, wait_until

CGROUPS = Path("/sys/fs/cgroup")
START_SECONDS = 60.0
TAINT = "tessera.dev/accelerator=cpu:NoSchedule"


@dataclass(frozen=True)
class Nodes:
    """All nodes of one cluster. `data` holds their disks, `state` their sockets."""

    programs: Programs
    daemons: Daemons
    identities: Identities
    data: Path
    state: Path
    registry: str

    def home(self, node: int) -> Path:
        """The node's disk."""
        return self.data / f"node{node}"

    def known(self) -> list[int]:
        """Nodes that have a disk."""
        return sorted(int(path.name[4:]) for path in self.data.glob("node[0-9]*") if path.is_dir())

    def start(self, node: int, worker: bool) -> None:
        """Start a node; a worker is labelled and tainted as a node with accelerators is."""
        home, name, namespace = self.home(node), f"node{node}", namespace_of(node)
        home.mkdir(parents=True, exist_ok=True)
        self._write_network(node)
        self._write_containerd(node)
        self.daemons.start(f"{name}-containerd", ("containerd", "-c", home / "containerd.toml"), namespace)
        wait_until(f"containerd of {name}", lambda: succeeds((*self.ctr(node), "version")), START_SECONDS)
        if PAUSE not in run((*self.ctr(node), "images", "ls", "-q")):
            run((*self.ctr(node), "images", "import", pause_archive()))
        _make_cgroup(name)
        self.daemons.start(f"{name}-kubelet", self._kubelet(node, worker), namespace)
        proxy = (
            *(self.programs.kube_proxy, f"--kubeconfig={self.identities.folder}/kube-proxy.kubeconfig"),
            *(f"--hostname-override={name}", "--proxy-mode=iptables", f"--cluster-cidr={POD_CIDR}"),
            "--conntrack-max-per-core=0",
        )
        self.daemons.start(f"{name}-kube-proxy", proxy, namespace)

    def ctr(self, node: int) -> tuple[str, ...]:
        """The command that speaks to a node's containerd."""
        return ("ctr", "-a", str(self._socket(node)), "-n", "k8s.io")

    def crash(self, node: int) -> None:
        """The node loses power: its link first, so that no closing packet leaves; then every process at once."""
        connect(node, False)
        for part in ("kubelet", "kube-proxy", "containerd"):
            self.daemons.stop(f"node{node}-{part}", signal.SIGKILL, 2.0)
        self._kill_containers(node)

    def remove(self, node: int) -> None:
        """Unmount and delete a crashed node's disk."""
        places = (f"{self.home(node)}/", f"{self.state}/node{node}-")
        for _ in range(3):
            for line in reversed(Path("/proc/mounts").read_text(encoding="utf-8").splitlines()):
                if line.split()[1].startswith(places):
                    succeeds(("umount", "-l", line.split()[1]))
        shutil.rmtree(self.home(node), ignore_errors=True)
        for root in _cgroup_roots(f"node{node}"):
            for folder in sorted(root.rglob("*"), reverse=True):
                if folder.is_dir():
                    _rmdir(folder)
            _rmdir(root)

    def _socket(self, node: int) -> Path:
        return self.state / f"node{node}-containerd.sock"

    def _write_network(self, node: int) -> None:
        folder = self.home(node) / "cni"
        folder.mkdir(exist_ok=True)
        addresses = {
            "type": "host-local",
            "dataDir": str(self.home(node) / "addresses"),
            "ranges": [[{"subnet": f"{pod_subnet(node)}.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True}
        plugins = [{**bridge, "ipam": addresses}, {"type": "portmap", "capabilities": {"portMappings": True}}]
        document = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (folder / "10-bridge.conflist").write_text(json.dumps(document), encoding="utf-8")

    def _write_containerd(self, node: int) -> None:
        home = self.home(node)
        text = containerd_settings(home, self.state / f"node{node}-containerd", self._socket(node), self.registry)
        (home / "containerd.toml").write_text(text, encoding="utf-8")

    def _kubelet(self, node: int, worker: bool) -> tuple[object, ...]:
        home, name = self.home(node), f"node{node}"
        kubeconfig = self.identities.kubeconfig(name, f"system:node:{name}", "system:nodes")
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self._socket(node)}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{_cgroup(name)}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [CONTROL_IP],
            "clusterDomain": "cluster.local",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.identities.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "podLogsDir": str(home / "logs"),
            "resolvConf": "",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
            "nodeStatusUpdateFrequency": "4s",
            "nodeLeaseDurationSeconds": 20,
            "syncFrequency": "10s",
            "maxPods": 250,
            "localStorageCapacityIsolation": False,
        }
        (home / "kubelet.json").write_text(json.dumps(settings), encoding="utf-8")
        labels = {"topology.kubernetes.io/zone": f"zone{node % 2}"}
        taints: tuple[str, ...] = ()
        if worker:
            labels["tessera.dev/accelerator"] = "cpu"
            taints = (f"--register-with-taints={TAINT}",)
        return (
            *(self.programs.kubelet, f"--config={home}/kubelet.json", f"--kubeconfig={kubeconfig}"),
            *(f"--root-dir={home}/kubelet", f"--hostname-override={name}", f"--node-ip={node_ip(node)}"),
            *(f"--cert-dir={home}/pki", f"--node-labels={','.join(f'{k}={v}' for k, v in labels.items())}", *taints),
        )

    def _kill_containers(self, node: int) -> None:
        """Every process in the node's control groups, and its containerd's shims, until none is left."""
        deadline = time.monotonic() + 10.0
        while (pids := set(self._processes(node))) and time.monotonic() < deadline:
            for pid in pids:
                _kill(pid)
            time.sleep(0.02)

    def _processes(self, node: int) -> Iterator[int]:
        for root in _cgroup_roots(f"node{node}"):
            for file in root.glob("**/cgroup.procs"):
                yield from (int(pid) for pid in _read(file).split() if _alive(int(pid)))
        socket = str(self._socket(node))
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            if socket in _read(file).split("\0") and _alive(int(file.parent.name)):
                yield int(file.parent.name)


def containerd_settings(home: Path, state: Path, socket: Path, registry: str) -> str:
    """containerd's configuration; images come from the cluster's registry by plain HTTP."""
    mirror = home / "registries" / registry
    mirror.mkdir(parents=True, exist_ok=True)
    hosts = f'[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n'
    (mirror / "hosts.toml").write_text(hosts, encoding="utf-8")
    return f"""version = 2
root = "{home}/containerd"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true   # inside a sandbox without CAP_SYS_RESOURCE a negative score is refused
  [plugins."io.containerd.grpc.v1.cri".containerd]
    discard_unpacked_layers = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{home}/registries"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{home}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _cgroup(name: str) -> str:
    return f"tessera-{name}"


def _cgroup_roots(name: str) -> list[Path]:
    return [root for root in (*CGROUPS.glob(f"*/{_cgroup(name)}"), CGROUPS / _cgroup(name)) if root.is_dir()]


def _make_cgroup(name: str) -> None:
    """In every hierarchy; an empty cpuset takes no process, so that it begins with all there is."""
    for hierarchy in (CGROUPS, *CGROUPS.iterdir()):
        if (hierarchy / "cgroup.procs").exists():
            (hierarchy / _cgroup(name)).mkdir(exist_ok=True)
    for file in ("cpuset.cpus", "cpuset.mems"):
        whole = CGROUPS / "cpuset" / file
        if whole.exists():
            (CGROUPS / "cpuset" / _cgroup(name) / file).write_text(whole.read_text())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    stat = _read(Path(f"/proc/{pid}/stat"))
    return bool(stat) and stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
