"""A Kubernetes control plane without nodes: a genuine etcd and kube-apiserver on loopback, for as long as it is needed.

Owns both processes and one folder with their keys, data and logs. They die with whoever started them, and are stopped
by their process ids. Nothing listens beyond 127.0.0.1; the one user is an administrator with a random token.
"""

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.go_programs import Programs, ProgramsUnavailable

START_LIMIT_SECONDS = 60.0
STOP_LIMIT_SECONDS = 10.0
COMMAND_LIMIT_SECONDS = 60.0


class ControlPlaneFailed(Exception):
    """A program ended or did not answer in time; the message has the end of its log."""


@dataclass(frozen=True)
class ControlPlane:
    """A control plane that answers."""

    url: str
    kubeconfig: Path
    kubectl_program: Path
    start_seconds: float
    """How long it took from nothing to ready."""

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, with an environment and a cache of its own."""
        home = self.kubeconfig.parent
        return subprocess.run(
            [str(self.kubectl_program), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={home / 'cache'}", *arguments],
            input=stdin,
            text=True,
            capture_output=True,
            timeout=COMMAND_LIMIT_SECONDS,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(home)},
        )

    def apply(self, manifest: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """Server-side apply of one manifest, unknown fields refused."""
        return self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(manifest))


@contextmanager
def control_plane(programs: Programs, folder: Path) -> Iterator[ControlPlane]:
    """Start etcd and kube-apiserver with everything they own in `folder`; stop both at the end."""
    started = time.monotonic()
    etcd_port, peer_port, api_port = _free_ports(3)
    token = secrets.token_hex(32)
    _write_secrets(folder, token)
    url, etcd_url = f"https://127.0.0.1:{api_port}", f"http://127.0.0.1:{etcd_port}"
    with ExitStack() as stack:
        etcd = stack.enter_context(_process("etcd", _etcd(programs.etcd, folder, etcd_url, peer_port), folder))
        server = stack.enter_context(
            _process("kube-apiserver", _api_server(programs.kube_apiserver, folder, etcd_url, api_port), folder)
        )
        _wait(lambda: _answers(f"{url}/readyz", folder, token), (etcd, server), folder)
        kubeconfig = _write_kubeconfig(folder, url, token)
        yield ControlPlane(url, kubeconfig, programs.kubectl, time.monotonic() - started)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held open until all are known, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _write_secrets(folder: Path, token: str) -> None:
    """The server's certificate, which clients trust as it is, the key of service accounts, the token."""
    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", "/CN=kube-apiserver", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    _openssl(folder, "req", "-x509", *elliptic, *names, "-days", "30", "-keyout", "server.key", "-out", "server.crt")
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "accounts.key")
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n', encoding="utf-8")


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, text=True, capture_output=True, timeout=COMMAND_LIMIT_SECONDS
    )
    if done.returncode:
        raise ControlPlaneFailed(f"openssl {arguments[0]} failed: {done.stderr}")


def _write_kubeconfig(folder: Path, url: str, token: str) -> Path:
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [
            {"name": "tests", "cluster": {"server": url, "certificate-authority": str(folder / "server.crt")}}
        ],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def _etcd(program: Path, folder: Path, client_url: str, peer_port: int) -> list[str]:
    peer_url = f"http://127.0.0.1:{peer_port}"
    return [
        str(program),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}",
        "--unsafe-no-fsync",  # the data lives no longer than the tests
    ]


def _api_server(program: Path, folder: Path, etcd_url: str, port: int) -> list[str]:
    return [
        str(program),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",  # there is no other member, and it refuses a loopback address
        f"--secure-port={port}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC",
        f"--tls-cert-file={folder / 'server.crt'}",
        f"--tls-private-key-file={folder / 'server.key'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
        "--disable-admission-plugins=ServiceAccount",  # no controller makes the default accounts
        "--feature-gates=GenericWorkload=true",  # with it the server knows the native gang scheduling, an alpha
        "--runtime-config=scheduling.k8s.io/v1alpha1=true",
    ]


@contextmanager
def _process(name: str, argv: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that logs to NAME.log and is killed by the kernel when its parent dies."""
    tied = shutil.which("setpriv")
    if tied is None:
        raise ProgramsUnavailable("setpriv (package util-linux) is missing, which ties a program to its parent")
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [tied, "--pdeathsig", "KILL", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_SECONDS)


def _wait(ready: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while not ready():
        ended = [process for process in processes if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            cause = "a program ended" if ended else f"no answer in {START_LIMIT_SECONDS:.0f} s"
            logs = [log.read_text(encoding="utf-8", errors="replace")[-2000:] for log in sorted(folder.glob("*.log"))]
            raise ControlPlaneFailed(f"{cause}:\n" + "\n".join(logs))
        time.sleep(0.05)


def _answers(url: str, folder: Path, token: str) -> bool:
    trust = ssl.create_default_context(cafile=str(folder / "server.crt"))
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(request, timeout=2) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False
