"""The folders of keys that pods of a run have, as the operator derives them and a kubelet puts them there."""

from __future__ import annotations

from pathlib import Path

from tessera_api.keys import Ring, ring_of
from tessera_api.run_directory import RunDirectory
from tessera_operator.keys import run_keys

SECRET, RUN = b"s" * 32, "uid-1"


def put_key(root: Path, number: int, coordinators: bool = False, run: str = RUN) -> Ring:
    """One key more in the run directory `root`; gives its ring."""
    keys, folder = run_keys(SECRET, run, number), RunDirectory(root).keys / str(number)
    folder.mkdir(parents=True)
    (folder / "key").write_bytes(keys.run)
    (folder / "tls.crt").write_text(keys.certificate)
    if coordinators:
        (folder / "control").write_bytes(keys.control)
        (folder / "tls.key").write_text(keys.private)
    return ring_of(RunDirectory(root))
