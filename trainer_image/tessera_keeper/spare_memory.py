"""How much memory this node can still give, by the machine's account and by its container's."""

from __future__ import annotations

from pathlib import Path

MARGIN_BYTES = 256 << 20
"""Never asked for: what trainers need from one moment to the next."""
_UNLIMITED = 1 << 60


def spare_memory(machine: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may be taken without bringing anybody near the limit; 0 where there are none. Where nothing is said,
    nothing is limited."""
    rooms = [room for room in (_of_machine(machine), _of_group(group), _of_older_group(group)) if room is not None]
    return max(0, min(rooms, default=_UNLIMITED) - MARGIN_BYTES)


def _of_machine(path: Path) -> int | None:
    kilobytes = _table(path).get("MemAvailable:")
    return kilobytes * 1024 if kilobytes is not None else None


def _of_group(root: Path) -> int | None:
    return _room(root / "memory.max", root / "memory.current", root / "memory.stat", "inactive_file")


def _of_older_group(root: Path) -> int | None:
    folder = root / "memory"
    limit, used = folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"
    return _room(limit, used, folder / "memory.stat", "total_inactive_file")


def _room(limit: Path, used: Path, statistics: Path, cache: str) -> int | None:
    """Files that nobody has open count as free: the kernel takes them back when it must."""
    most, now = _number(limit), _number(used)
    if most is None or now is None or most >= _UNLIMITED:
        return None
    return most - now + _table(statistics).get(cache, 0)


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
