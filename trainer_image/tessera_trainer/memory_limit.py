"""The memory limit of this node's container, and whether the kernel has killed anybody for it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MIB = 1 << 20
_UNLIMITED = 1 << 60
"""What the older interface shows for no limit is a page short of 2^63."""


class MemoryLimit:
    """Counts kills since it was made or last asked. Knows both interfaces of the kernel (cgroup v2, v1); where there is
    neither, nobody is ever found killed."""

    def __init__(self, root: Path = ROOT) -> None:
        older = root / "memory"
        self._places = (
            (root / "memory.events", root / "memory.max"),
            (older / "memory.oom_control", older / "memory.limit_in_bytes"),
        )
        self._known = self._kills()

    def killed(self) -> bool:
        """Whether a process of this container was killed for its memory since this was last asked."""
        before, self._known = self._known, self._kills()
        return self._known > before

    def words(self) -> str:
        """The limit, and what to do about it."""
        limit = self._limit()
        of = f" of {limit // MIB} MiB" if limit is not None else ""
        remedy = "lower training.unit or data.sequenceLength, or have nodes with more memory"
        return f"out of memory: a trainer was killed at its node's limit{of}; {remedy}"

    def _kills(self) -> int:
        for events, _ in self._places:
            for line in _read(events).splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill" and value.isdigit():
                    return int(value)
        return 0

    def _limit(self) -> int | None:
        for _, limit in self._places:
            text = _read(limit).strip()
            if text.isdigit() and int(text) < _UNLIMITED:
                return int(text)
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
