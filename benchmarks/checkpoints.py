"""What storage holds against what the log says: the newest commit, and whether its objects are whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def newest_commit(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The last commit entry of the log."""
    commits = [entry for entry in entries if entry["kind"] == "commit"]
    return commits[-1] if commits else None


def damage(storage: Path, commit: dict[str, Any] | None) -> list[str]:
    """The objects of a commit that are missing, or whose bytes are not those that were committed."""
    objects = commit["objects"] if commit else []
    return [found["name"] for found in objects if not _whole(storage / found["name"], found)]


def _whole(path: Path, said: dict[str, Any]) -> bool:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    return bool(len(data) == said["size"] and hashlib.sha256(data).hexdigest() == said["sha256"])
