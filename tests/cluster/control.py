"""The control plane of a cluster with nodes, its registry and its object store, all in the namespace of their own.

Owns the daemons etcd, apiserver, controller-manager, scheduler, coredns, registry and seaweedfs.
"""

import json
import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.go_programs import Programs, cache
from tests.cluster.identities import Identities
from tests.cluster.network import CONTROL, CONTROL_IP, POD_CIDR, enter
from tests.cluster.processes import Daemons, run, succeeds, wait_until

SERVICE_CIDR = "10.96.0.0/16"
REGISTRY = f"{CONTROL_IP}:5000"
S3_URL = f"http://{CONTROL_IP}:8333"
S3_USER = {"AWS_ACCESS_KEY_ID": "tessera", "AWS_SECRET_ACCESS_KEY": "tessera-secret"}
START_SECONDS = 90.0
_ETCD, _ETCD_PEER = "http://127.0.0.1:2379", "http://127.0.0.1:2380"


@dataclass(frozen=True)
class Control:
    """The control plane. `data` holds what lives as long as the cluster."""

    programs: Programs
    daemons: Daemons
    identities: Identities
    data: Path

    def start(self) -> None:
        """Everything that does not run yet, until the API server is ready."""
        self._make_identities()
        self._start("etcd", self._etcd())
        self.start_api_server()
        admin = self.identities.folder
        controllers = (
            *(self.programs.kube_controller_manager, f"--kubeconfig={admin}/controller-manager.kubeconfig"),
            *(f"--service-account-private-key-file={self.identities.pki}/accounts.key", "--leader-elect=false"),
            *(f"--root-ca-file={self.identities.pki}/ca.crt", "--use-service-account-credentials=true"),
            *("--allocate-node-cidrs=true", f"--cluster-cidr={POD_CIDR}", f"--service-cluster-ip-range={SERVICE_CIDR}"),
        )
        self._start("controller-manager", controllers)
        scheduler = (self.programs.kube_scheduler, f"--kubeconfig={admin}/scheduler.kubeconfig", "--leader-elect=false")
        self._start("scheduler", scheduler)
        self._start("coredns", (self.programs.coredns, "-conf", self._corefile()))
        if not succeeds((*self.kubectl(), "get", "clusterrolebinding", "kube-proxy")):
            binding = ("create", "clusterrolebinding", "kube-proxy", "--clusterrole=system:node-proxier")
            run((*self.kubectl(), *binding, "--user=system:kube-proxy"))

    def start_api_server(self) -> None:
        """The API server alone, until it is ready."""
        self._start("apiserver", self._api_server())
        self._wait("the API server", lambda: succeeds((*self.kubectl(), "get", "--raw", "/readyz")))

    def kubectl(self) -> tuple[str, ...]:
        """kubectl as the administrator, from inside the network."""
        config = self.identities.folder / "admin.kubeconfig"
        return (
            *enter(CONTROL),
            str(self.programs.kubectl),
            f"--kubeconfig={config}",
            f"--cache-dir={self.data}/kubectl",
        )

    def start_registry(self) -> None:
        """A real image registry; its blobs stay in the cache, so that a layer is pushed once."""
        blobs = cache() / "registry"
        blobs.mkdir(parents=True, exist_ok=True)
        settings = self.data / "registry.json"
        storage = {"filesystem": {"rootdirectory": str(blobs)}}
        document = {"version": "0.1", "http": {"addr": REGISTRY}, "storage": storage}
        settings.write_text(json.dumps(document), encoding="utf-8")
        self._start("registry", ("docker-registry", "serve", settings))
        reachable = (*enter(CONTROL), "python3", "-c", _CONNECT.format(host=CONTROL_IP, port=5000))
        self._wait("the registry", lambda: succeeds(reachable))

    def start_object_store(self) -> None:
        """A real S3 (SeaweedFS) that checks who asks."""
        folder = self.data / "seaweedfs"
        folder.mkdir(exist_ok=True)
        credentials = {"accessKey": S3_USER["AWS_ACCESS_KEY_ID"], "secretKey": S3_USER["AWS_SECRET_ACCESS_KEY"]}
        identity = {"name": "tessera", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"]}
        (self.data / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        command = [str(Path(sysconfig.get_path("scripts")) / "weed"), "server", f"-dir={folder}", "-s3"]
        command += [f"-ip={CONTROL_IP}", f"-ip.bind={CONTROL_IP}", "-master.telemetry=false", "-s3.port=8333"]
        command += [f"-s3.config={self.data}/s3.json", "-master.volumeSizeLimitMB=128", "-volume.max=64"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        self._start("seaweedfs", command)
        reachable = (*enter(CONTROL), "python3", "-c", _CONNECT.format(host=CONTROL_IP, port=8333))
        self._wait("SeaweedFS", lambda: succeeds(reachable))

    def _start(self, name: str, argv: object) -> None:
        assert isinstance(argv, tuple | list)
        self.daemons.start(name, argv, CONTROL)

    def _wait(self, what: str, holds: Callable[[], bool]) -> None:
        wait_until(what, holds, START_SECONDS)

    def _make_identities(self) -> None:
        self.identities.make_authority()
        self.identities.certify_server()
        for name, common_name, group in (
            ("admin", "admin", "system:masters"),
            ("controller-manager", "system:kube-controller-manager", ""),
            ("scheduler", "system:kube-scheduler", ""),
            ("coredns", "admin", "system:masters"),
            ("kube-proxy", "system:kube-proxy", ""),
        ):
            self.identities.kubeconfig(name, common_name, group)

    def _corefile(self) -> Path:
        path = self.data / "Corefile"
        kubeconfig = self.identities.folder / "coredns.kubeconfig"
        plugin = (
            f"kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig} cluster\n    pods insecure\n  }}"
        )
        path.write_text(f".:53 {{\n  bind {CONTROL_IP}\n  errors\n  {plugin}\n  cache 5\n}}\n", encoding="utf-8")
        return path

    def _etcd(self) -> tuple[object, ...]:
        return (
            *(self.programs.etcd, f"--data-dir={self.data}/etcd", f"--initial-cluster=default={_ETCD_PEER}"),
            *(f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}", "--unsafe-no-fsync"),
            *(f"--listen-peer-urls={_ETCD_PEER}", f"--initial-advertise-peer-urls={_ETCD_PEER}"),
        )

    def _api_server(self) -> tuple[object, ...]:
        pki = self.identities.pki
        return (
            *(self.programs.kube_apiserver, f"--etcd-servers={_ETCD}", f"--advertise-address={CONTROL_IP}"),
            *(f"--service-cluster-ip-range={SERVICE_CIDR}", "--authorization-mode=Node,RBAC"),
            *("--allow-privileged=true", f"--client-ca-file={pki}/ca.crt", f"--tls-cert-file={pki}/apiserver.crt"),
            *(f"--tls-private-key-file={pki}/apiserver.key", "--enable-admission-plugins=NodeRestriction"),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={pki}/accounts.pub", f"--kubelet-client-key={pki}/admin.key"),
            *(
                f"--service-account-signing-key-file={pki}/accounts.key",
                f"--kubelet-client-certificate={pki}/admin.crt",
            ),
            "--kubelet-preferred-address-types=InternalIP",
        )


_CONNECT = "import socket; socket.create_connection(('{host}', {port}), 1).close()"


def s3_environment() -> dict[str, str]:
    """With which a program inside the network reaches the object store."""
    return {**os.environ, **S3_USER, "AWS_ENDPOINT_URL": S3_URL, "AWS_EC2_METADATA_DISABLED": "true"}
