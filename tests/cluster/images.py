"""Images: built from this repository's Dockerfiles by buildah, pushed to the cluster's own registry.

Owns buildah's storage and the base image in the cache folder; both outlive a cluster, so that only changed layers are
built again.
"""

import shutil
import subprocess
from pathlib import Path

from tests.cluster.go_programs import cache
from tests.cluster.processes import run

REPOSITORY = Path(__file__).parents[2]
BASE = "localhost/tessera-base:bookworm-headers"
"""Stands for python:3.11-slim-bookworm, which no registry here serves: the same Debian with the same Python."""
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
BUILD_SECONDS = 3000.0
PUSH_SECONDS = 600.0
DOCKERFILES = {"operator": "operator/Dockerfile", "trainer": "trainer_image/Dockerfile"}


def build_images() -> None:
    """Build every image of this repository; quick when nothing has changed."""
    _make_base()
    for name, file in DOCKERFILES.items():
        _buildah(
            *("bud", "--isolation", "chroot", "--network", "host", "--layers", "--build-arg", f"BASE={BASE}"),
            *("-t", _local(name), "-f", str(REPOSITORY / file), str(REPOSITORY)),
            limit=BUILD_SECONDS,
        )


def image_identity(name: str) -> str:
    """What the image's content decides."""
    return _buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", _local(name)).strip()


def push_image(name: str, reference: str, enter: tuple[str, ...]) -> None:
    """Push to a registry that is reached by the command prefix `enter` (a network namespace)."""
    _buildah("push", "-q", "--tls-verify=false", _local(name), f"docker://{reference}", limit=PUSH_SECONDS, enter=enter)


def _local(name: str) -> str:
    return f"localhost/tessera-{name}"


def _buildah(*arguments: str, limit: float = 120.0, enter: tuple[str, ...] = ()) -> str:
    storage = ("--root", str(cache() / "images"), "--storage-driver", "overlay")
    return run((*enter, "buildah", *storage, *arguments), limit=limit)


def _make_base() -> None:
    """A Debian 12 with Python 3.11 and its headers (compiled code wants them; Python's own image has them, too), which
    trusts the certificate authorities of this machine."""
    if BASE in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    root = cache() / "base.partial"
    shutil.rmtree(root, ignore_errors=True)
    packages = "--include=ca-certificates,python3,python3-dev,python3-venv"
    run(("debootstrap", "--variant=minbase", packages, "bookworm", str(root)), limit=BUILD_SECONDS)
    shutil.copy(f"/{AUTHORITIES}", root / AUTHORITIES)
    shutil.rmtree(root / "var/cache/apt/archives")
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    container = _buildah("from", "scratch").strip()
    _buildah("copy", "-q", container, str(root), "/", limit=BUILD_SECONDS)
    path = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    _buildah("config", "--env", path, "--env", f"PIP_CERT=/{AUTHORITIES}", container)
    _buildah("commit", "-q", "--rm", container, BASE, limit=BUILD_SECONDS)
    shutil.rmtree(root)


if __name__ == "__main__":
    subprocess.run(["buildah", "--version"], check=True)
    build_images()
