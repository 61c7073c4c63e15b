"""The image of a pod's sandbox: a busybox that sleeps, as an archive in the cache."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from tests.cluster.go_programs import cache

PAUSE = "tessera.local/pause:1"


def pause_archive() -> Path:
    """The archive, made once."""
    path = cache() / "pause.tar"
    if path.exists():
        return path
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
    blob = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(blob).hexdigest()}"]},
    }
    encoded = json.dumps(config).encode()
    name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]).encode()
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for member, data in ((name, encoded), ("manifest.json", manifest), ("layer.tar", blob)):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    partial.rename(path)
    return path
