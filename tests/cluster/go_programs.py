"""The genuine programs of a cluster, compiled once from their Go modules.

Owns the cache folder (`TESSERA_CLUSTER_CACHE`, else `~/.cache/tessera-cluster`): a program is there complete or not at
all, because it is compiled beside its place and renamed into it. Run as a program it compiles what is missing and says
how long that took; `TESSERA_CLUSTER_PARALLEL` limits how many compilations run at a time.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_MODULE = "k8s.io/kubernetes"
KUBERNETES_VERSION = "v1.35.4"
BUILD_LIMIT_SECONDS = 3600.0
KUBERNETES = ("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")


class ProgramsUnavailable(Exception):
    """The programs are neither cached nor can they be compiled here; the message says what is missing."""


@dataclass(frozen=True)
class Module:
    """A Go module with one program in it."""

    program: str
    path: str
    version: str
    package: str


# Debian's etcd 3.4 lacks the progress notifications that the API server waits for.
MODULES = (
    Module("etcd", "go.etcd.io/etcd/server/v3", "v3.6.16", "go.etcd.io/etcd/server/v3"),
    Module("coredns", "github.com/coredns/coredns", "v1.13.2", "github.com/coredns/coredns"),
    Module("helm", "helm.sh/helm/v3", "v3.19.2", "helm.sh/helm/v3/cmd/helm"),
    Module("kwok", "sigs.k8s.io/kwok", "v0.7.0", "sigs.k8s.io/kwok/cmd/kwok"),
    Module("jobset", "sigs.k8s.io/jobset", "v0.8.0", "sigs.k8s.io/jobset"),
    Module("kueue", "sigs.k8s.io/kueue", "v0.17.0", "sigs.k8s.io/kueue/cmd/kueue"),
    Module(
        *("kube-router", "github.com/cloudnativelabs/kube-router/v2", "v2.1.0"),
        "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
    ),
)
ON_DEMAND = ("jobset", "kwok", "kueue", "kube-router")
"""Compiled when a benchmark or a long story asks for them."""


@dataclass(frozen=True)
class Programs:
    """Where each program is, or will be once compiled."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubelet: Path
    kube_proxy: Path
    coredns: Path
    helm: Path
    kwok: Path
    kueue: Path
    jobset: Path
    kube_router: Path

    def control_plane(self) -> tuple[Path, ...]:
        """What a control plane without nodes needs."""
        return (self.etcd, self.kube_apiserver, self.kubectl)

    def all(self) -> tuple[Path, ...]:
        """What a cluster with nodes needs."""
        nodes = (self.kube_controller_manager, self.kube_scheduler, self.kubelet, self.kube_proxy)
        return (*self.control_plane(), *nodes, self.coredns, self.helm)


def missing(paths: Sequence[Path]) -> list[str]:
    """Names of those that are not compiled yet."""
    return [path.name for path in paths if not path.exists()]


def cached_programs() -> Programs:
    """Where the programs are, or will be once compiled."""
    places = {name: cache() / f"kubernetes-{KUBERNETES_VERSION}" / name for name in KUBERNETES}
    places |= {module.program: cache() / f"{module.program}-{module.version}" / module.program for module in MODULES}
    return Programs(**{name.replace("-", "_"): path for name, path in places.items()})


def build_programs(*more: str) -> Programs:
    """Compile what is missing, and `more` of what few need. Several processes may call this at once: one
    compiles, the others wait for it."""
    programs = cached_programs()
    if not missing([*programs.all(), *(getattr(programs, name.replace("-", "_")) for name in more)]):
        return programs
    go = shutil.which("go")
    if go is None:
        names = ", ".join(missing(programs.all()))
        raise ProgramsUnavailable(f"{names} are not in {cache()}, and there is no Go to compile them with")
    with _build_lock():
        for module in MODULES:
            target = cache() / f"{module.program}-{module.version}" / module.program
            wanted = module.program not in ON_DEMAND or module.program in more
            if wanted and not target.exists():
                _compile(go, _module(go, module), module.package, target)
        for name in KUBERNETES:
            target = cache() / f"kubernetes-{KUBERNETES_VERSION}" / name
            if not target.exists():
                _compile(go, _kubernetes_module(go), f"{KUBERNETES_MODULE}/cmd/{name}", target, _version_flags())
    return programs


def module_source(path: str, version: str) -> Path:
    """The source of a Go module, such as definitions that its project ships. Raises ProgramsUnavailable."""
    go = shutil.which("go")
    if go is None:
        raise ProgramsUnavailable(f"there is no Go to fetch {path} {version} with")
    with _build_lock():
        found = json.loads(
            _run_go(go, _module_folder("source", "go 1.25.0\n"), "mod", "download", "-json", f"{path}@{version}")
        )
    return Path(found["Dir"])


def cache() -> Path:
    """The folder that outlives every cluster: programs, images, what their layers were built from."""
    return Path(os.environ.get("TESSERA_CLUSTER_CACHE", Path.home() / ".cache" / "tessera-cluster"))


@contextmanager
def _build_lock() -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _module(go: str, module: Module) -> Path:
    """A module of our own that requires the one with the program."""
    folder = _module_folder(module.program, f"go 1.25.0\n\nrequire {module.path} {module.version}\n")
    _run_go(go, folder, "mod", "download")
    return folder


def _kubernetes_module(go: str) -> Path:
    """A module of our own that requires Kubernetes: its staging modules exist only by replacement."""
    place = _module_folder("kubernetes-source", "go 1.25.0\n")
    download = _run_go(go, place, "mod", "download", "-json", f"{KUBERNETES_MODULE}@{KUBERNETES_VERSION}")
    gomod = Path(json.loads(download)["GoMod"]).read_text(encoding="utf-8")
    staging = sorted(set(re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0(?=\s|$)", gomod, re.MULTILINE)))
    library_version = "v0." + KUBERNETES_VERSION.split(".", 1)[1]
    directive = re.search(r"^go \S+$", gomod, re.MULTILINE)
    if directive is None:
        raise ProgramsUnavailable(f"the go.mod of {KUBERNETES_MODULE} {KUBERNETES_VERSION} names no Go version")
    replacements = "\n".join(f"\t{module} => {module} {library_version}" for module in staging)
    requirement = f"require {KUBERNETES_MODULE} {KUBERNETES_VERSION}"
    return _module_folder("kubernetes", f"{directive[0]}\n\n{requirement}\n\nreplace (\n{replacements}\n)\n")


def _module_folder(name: str, gomod: str) -> Path:
    folder = cache() / "modules" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(f"module tessera.dev/{name}\n\n{gomod}", encoding="utf-8")
    return folder


def _version_flags() -> str:
    """The version that the server reports, without which kubectl and clients take it for an unknown one."""
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())


def _compile(go: str, folder: Path, package: str, target: Path, flags: str = "") -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    parallel = os.environ.get("TESSERA_CLUSTER_PARALLEL", str(os.cpu_count() or 1))
    linker = f"-s -w {flags}".strip()
    options = ["-mod=mod", "-trimpath", "-buildvcs=false", "-p", parallel, "-ldflags", linker, "-o", str(partial)]
    _run_go(go, folder, "build", *options, package)
    partial.rename(target)


def _run_go(go: str, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(
        [go, *arguments], cwd=folder, env=environment, text=True, capture_output=True, timeout=BUILD_LIMIT_SECONDS
    )
    if done.returncode:
        raise ProgramsUnavailable(f"go {' '.join(arguments[:2])} failed in {folder}: {done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    """Compile what is missing and say where it lies; with `--if-possible` say why not, unless a cluster is required."""
    started = time.monotonic()
    try:
        programs = build_programs()
    except ProgramsUnavailable as reason:
        if "--if-possible" not in sys.argv or os.environ.get("TESSERA_REQUIRE_CLUSTER") == "1":
            raise
        print(f"no cluster, its tests will be skipped: {reason}")
        return
    print(f"{len(programs.all())} programs in {cache()}: ready, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
