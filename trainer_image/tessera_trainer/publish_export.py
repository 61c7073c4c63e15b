"""The export beside the run's log: where the run's storage is not its own folder, the exported files are copied there.

What must stay true: `export/tessera-export.json` comes last and names every file with its size and sha256: who finds
it finds a whole export. In exact mode two publishers write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tessera_store import Store, open_store

PREFIX = "export/"
MARKER = "tessera-export.json"
_PIECE = 1 << 20


def publish_export(folder: Path, storage: str) -> str:
    """Copy the export to the run's storage, unless it lies there. Returns its place. Raises StoreError, OSError."""
    if folder.as_uri() == f"{storage.rstrip('/')}/export":
        return folder.name
    if storage.startswith("file:"):
        return folder.as_uri()
    _copy(folder, open_store(storage))
    return f"{storage.rstrip('/')}/{PREFIX}"


def _copy(folder: Path, store: Store) -> None:
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        files[name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        store.put(f"{PREFIX}{name}", file)
    store.put(f"{PREFIX}{MARKER}", json.dumps({"files": files}, indent=1).encode())


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
